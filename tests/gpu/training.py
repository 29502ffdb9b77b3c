r"""One training of the demo's task in half precision, stopped at the first gradient that is not finite.

    python tests/gpu/training.py RECORD.json RECIPE [--field value ...]

At that step the loss is differentiated again, on the same batch with the same weights, with and without cuDNN's
attention: so the cause is settled, whatever else the training does.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch

import mrt_plugin.grpo


class Watched(mrt_plugin.grpo.MRTTrainer):
    record: Path
    seconds = float(os.environ.get("SECONDS_AT_MOST", "inf"))

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.found = {"updates": 0, "right": [], "lengths": []}
        self.began = None

    def _compute_loss(self, model, inputs):
        self.batch = inputs
        return super()._compute_loss(model, inputs)

    def training_step(self, model, inputs, num_items_in_batch):
        self.began = self.began or time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        keys = self.batch["prompt_ids"].shape[1] + self.batch["completion_ids"].shape[1]
        self.found["lengths"].append(keys)
        if not self.gradient_is_finite():
            self.found |= {"not finite at": self.state.global_step + 1, "keys": keys}
            self.found["padded on the left"] = not self.batch["prompt_mask"].bool().all().item()
            for on in (True, False):
                self.found[f"finite {'with' if on else 'without'} cuDNN"] = self.once_more(model, on)
        self.found |= {"updates": self.state.global_step + 1, "seconds": time.perf_counter() - self.began}
        self.found["right"].append(self._metrics["train"]["rewards/mrt_accuracy/mean"][-1])
        if self.args.use_vllm and torch.cuda.is_available():  # vLLM's memory is not torch's
            free, total = torch.cuda.mem_get_info()
            self.found["GiB in use"] = max((total - free) / 2**30, self.found.get("GiB in use", 0))
        self.record.write_text(json.dumps(self.found))
        if "keys" in self.found or self.found["seconds"] > self.seconds:
            raise SystemExit
        return loss

    def gradient_is_finite(self) -> bool:
        gradients = [one.grad for one in self.model.parameters() if one.grad is not None]
        return bool(torch.stack([one.isfinite().all() for one in gradients]).all())

    def once_more(self, model, cudnn: bool) -> bool:
        before = torch.backends.cuda.cudnn_sdp_enabled()
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        self.model.zero_grad()
        with self.compute_loss_context_manager():
            loss = self._compute_loss(model, self.batch)
        self.accelerator.backward(loss)
        torch.backends.cuda.enable_cudnn_sdp(before)
        return self.gradient_is_finite()


if __name__ == "__main__":
    Watched.record = Path(sys.argv[1])
    mrt_plugin.grpo.MRTTrainer = Watched
    mrt_plugin.grpo.run(["--upstream", "trl", "--config", *sys.argv[2:]])
