r"""trl 0.18, Open-R1's pin, with the seams of 1.x that [`~mrt_plugin.MRTTrainer`] overrides."""

from functools import partial
from types import SimpleNamespace

import torch
import trl
from accelerate.utils import gather
from trl.data_utils import maybe_apply_chat_template
from trl.trainer import grpo_trainer
from trl.trainer.utils import pad


class GRPOTrainer18(trl.GRPOTrainer):
    """
    On 1.x, a step calls `_tokenize_prompts` and `_calculate_rewards`, and the loss takes advantages of shape (B, T).

    0.18 does both inline, from `self.processing_class` and `self.reward_funcs`. For the time of a step these are
    replaced by stand-ins that call the methods. vLLM in process is given the same token ids, which 0.18 would have it
    read from text. A model card of 1.x names the method by `_name` and `_paper`; 0.18 always writes GRPO.
    """

    _name, _paper = "GRPO", {}

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        theirs, paper, ours = grpo_trainer.generate_model_card, self._paper, {}
        if paper:
            ours = {"trainer_name": self._name, "trainer_citation": paper["citation"]}
            ours |= {"paper_title": paper["title"], "paper_id": paper["id"]}
        grpo_trainer.generate_model_card = lambda **fields: theirs(**fields | ours)
        try:
            tags = {*([tags] if isinstance(tags, str) else tags or []), *self._tag_names}
            super().create_model_card(model_name, dataset_name, sorted(tags))
        finally:
            grpo_trainer.generate_model_card = theirs

    def _tokenize_prompts(self, prompts: list) -> tuple[list[list[int]]]:
        tokenizer = self.processing_class
        texts = [maybe_apply_chat_template({"prompt": prompt}, tokenizer)["prompt"] for prompt in prompts]
        prompt_ids = tokenizer(text=texts, add_special_tokens=False)["input_ids"]
        length = self.args.max_prompt_length
        return ([ids[-length:] for ids in prompt_ids] if length is not None else prompt_ids,)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        """Rewards of all ranks, (rows of all ranks, functions), NaN where a function skipped the row."""
        keys = [key for key in inputs[0] if key not in ("prompt", "completion", "completion_ids")]
        columns = {key: [row[key] for row in inputs] for key in keys}
        columns |= {"prompts": prompts, "completions": completions, "completion_ids": completion_ids_list}
        values = [[torch.nan if value is None else value for value in f(**columns)] for f in self.reward_funcs]
        return gather(torch.tensor(values, dtype=torch.float32, device=self.accelerator.device).T.contiguous())

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        if any(isinstance(function, torch.nn.Module) for function in self.reward_funcs):
            raise ValueError("MRTTrainer takes no reward models on trl 0.18, only reward functions.")
        functions, tokenizer, engine = self.reward_funcs, self.processing_class, getattr(self, "llm", None)
        prompt_ids = self._tokenize_prompts([row["prompt"] for row in inputs])[0]
        rewards: list[list] = []
        if engine is not None and self.vllm_tensor_parallel_size == 1:
            longest, most = max(map(len, prompt_ids)), self.args.max_prompt_length
            if most is not None and longest > most:  # it has room for so many, and for the completion
                raise ValueError(f"A prompt with its prefix has {longest} tokens; raise max_prompt_length: {most}.")
            self.llm = _TokenPrompts(engine, prompt_ids)

        def reward(column: int, /, prompts, completions, completion_ids, **kwargs):
            if not rewards:  # the first function computes all columns
                self.reward_funcs, self.processing_class = functions, tokenizer
                first = self.accelerator.process_index * len(prompts)
                calculated = self._calculate_rewards(inputs, prompts, completions, completion_ids)
                rewards.extend(calculated[first : first + len(prompts)].tolist())
            return [row[column] for row in rewards]

        self.reward_funcs = [partial(reward, column) for column in range(len(functions))]
        self.processing_class = _Prompts(tokenizer, prompt_ids)
        self.max_prompt_length = None  # done, and a prefix must not push the problem out
        try:
            # Alone, since a column `messages` or `label` would make TRL read a row as one of another task.
            output = super()._generate_and_score_completions([{"prompt": row["prompt"]} for row in inputs])
            # 0.18 counts what ended on all ranks, and divides by the rows of one.
            shares = self._metrics["train" if self.model.training else "eval"]["completions/clipped_ratio"]
            shares[-1] = 1 - (1 - shares[-1]) / self.accelerator.num_processes
            return output
        finally:
            self.reward_funcs, self.processing_class = functions, tokenizer
            if engine is not None:
                self.llm = engine
            self.max_prompt_length = self.args.max_prompt_length

    def _compute_loss(self, model, inputs):
        advantages = inputs["advantages"]
        if advantages.dim() == 2:  # where the loss asks for (B, 1), to broadcast it over the tokens
            inputs = {**inputs, "advantages": SimpleNamespace(unsqueeze=lambda dim: advantages)}
        return super()._compute_loss(model, inputs)


class _Delegate:
    """Stands in for an object of TRL's, all but the one method that a subclass defines."""

    def __init__(self, stood_in_for, prompt_ids: list[list[int]]):
        self._stood_in_for, self._prompt_ids = stood_in_for, prompt_ids

    def __getattr__(self, name: str):
        return getattr(self._stood_in_for, name)


class _Prompts(_Delegate):
    """A tokenizer that has read the prompts already."""

    def __call__(self, text, **kwargs):
        prompt_ids = [torch.tensor(ids) for ids in self._prompt_ids]
        return {
            "input_ids": pad(prompt_ids, self._stood_in_for.pad_token_id, padding_side="left"),
            "attention_mask": pad([torch.ones_like(ids) for ids in prompt_ids], 0, padding_side="left"),
        }


class _TokenPrompts(_Delegate):
    """A vLLM engine that takes the prompts in token ids."""

    def generate(self, prompts, **kwargs):
        return self._stood_in_for.generate([{"prompt_token_ids": ids} for ids in self._prompt_ids], **kwargs)
