r"""vLLM in this process, behind the sampler's seam."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from ..tokens import eos_ids
from .sampling import Completion, Prompt, SamplingSettings


class VLLMSampler:
    """
    Samples with vLLM in this process: one call for all prompts, with prefix caching, so that branches share a trace.

    Args:
        model (`str`): Name or path of the model.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        **engine_args: Of `vllm.LLM`: `dtype`, `revision`, `max_model_len`, `tensor_parallel_size`, ...

    ```python
    sampler = VLLMSampler("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", tokenizer, dtype="bfloat16")
    sampler.sample([Prompt(tokenizer("1 + 1 =")["input_ids"])], n=4, settings=SamplingSettings(max_new_tokens=16))
    ```
    """

    scores = False

    def __init__(self, model: str, tokenizer, **engine_args):
        from vllm import LLM

        defaults = {"enable_prefix_caching": True}
        if not torch.cuda.is_available():
            # Compiling takes minutes; and a prompt with a seed that is read in parts ends the engine.
            defaults |= {"enforce_eager": True, "enable_chunked_prefill": False}
        # "vllm": the model's own generation config would bring its top_k and penalties along.
        self.llm = LLM(model, **defaults | {"generation_config": "vllm"} | engine_args)
        self.tokenizer = tokenizer
        self.max_length = self.llm.llm_engine.model_config.max_model_len
        self.stop_token_ids = _generation_eos(model, engine_args.get("revision"))

    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[Completion] | None]:
        """As in [`~mrt_plugin.engines.sampling.Sampler`]."""
        from vllm import SamplingParams

        asked = [index for index, prompt in enumerate(prompts) if prompt.fits(self.max_length)]
        if not asked:
            return [None] * len(prompts)
        params = [
            SamplingParams(
                n=n if settings.temperature else 1,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                # The n completions of a request are drawn with consecutive seeds.
                seed=None if settings.seed is None else settings.seed + n * index,
                stop_token_ids=self.stop_token_ids,
                detokenize=False,
            )
            for index in asked
        ]
        inputs = [{"prompt_token_ids": prompts[index].token_ids} for index in asked]
        drawn: list[list[Completion] | None] = [None] * len(prompts)
        for index, output in zip(asked, self.llm.generate(inputs, params, use_tqdm=False), strict=True):
            group = [Completion(list(one.token_ids), one.finish_reason == "stop") for one in output.outputs]
            drawn[index] = group if settings.temperature else group * n
        return drawn


def _generation_eos(model: str, revision: str | None) -> list[int]:
    """End-of-sequence tokens that only the model's generation config names."""
    try:
        return eos_ids(GenerationConfig.from_pretrained(model, revision=revision))
    except OSError:  # it has none
        return []
