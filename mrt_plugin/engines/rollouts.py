r"""The vLLM engine of a trainer's rollouts, behind the sampler's seam: all branches of a step in one call.

TRL holds the engine in each process (colocate) or asks a server; both of its generations are covered. Prompts that
branch off one trace share it through vLLM's prefix cache. Left out: seeds, and scoring, which is the policy's.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate.utils import broadcast_object_list, gather_object

from ..upstream.trainer import generating_policy, text_tokenizer
from ..upstream.version import TRL_1
from .policy import PolicySampler
from .sampling import Prompt, Sampler, SamplingSettings


logger = logging.getLogger(__name__)


class RolloutEngine:
    """
    Samples with the vLLM engine of a trainer, after giving it the current weights where TRL has not yet.

    Args:
        trainer ([`~trl.GRPOTrainer`]):
            Trainer with `use_vllm`.

    Example:
    ```python
    engine = RolloutEngine(trainer)
    engine.sample([Prompt(trace, cut, suffix) for cut in cuts], n=4, settings=SamplingSettings(max_new_tokens=64))
    ```
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.max_length = _context_length(trainer)

    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[list[int]]]:
        """
        As in [`~mrt_plugin.engines.sampling.Sampler`], but to be called on every rank, also with no prompts. The
        prompts of all ranks are dealt out evenly, so that no engine waits for the busiest, and each rank is given its
        own back.
        """
        if settings.seed is not None:
            raise ValueError("The engine of the rollouts draws from its own random numbers; seed has to be None.")
        accelerator = self.trainer.accelerator
        counts = gather_object([len(prompts)])
        everyone = gather_object(list(prompts))  # which hold a trace once, whatever branches off it
        fits = [self.max_length is None or prompt.length < self.max_length for prompt in everyone]
        if not all(fits):
            logger.warning(
                f"vLLM's context of {self.max_length} tokens has no room for an answer behind {fits.count(False)} of "
                f"{len(fits)} prompts; they have none. {_ADVICE}"
            )
        answers = iter(self._sample([prompt for prompt, fit in zip(everyone, fits, strict=True) if fit], n, settings))
        drawn = [next(answers) if fit else [[] for _ in range(n)] for fit in fits]
        first = sum(counts[: accelerator.process_index])
        return drawn[first : first + len(prompts)]

    def _sample(self, everyone: list[Prompt], n: int, settings: SamplingSettings) -> list[list[list[int]]]:
        """Completions of the prompts of all ranks, on all ranks."""
        if not everyone:
            return []
        accelerator = self.trainer.accelerator
        self._sync_weights()
        share = -(-len(everyone) // accelerator.num_processes)
        first = accelerator.process_index * share
        mine = [prompt.token_ids for prompt in everyone[first : first + share]]
        mine += [everyone[-1].token_ids] * (share - len(mine))  # the engines of a group take as many from each rank
        complete = _complete if TRL_1 else _complete_18
        each = n if settings.temperature else 1  # vLLM refuses to draw several at temperature 0
        drawn = gather_object(complete(self.trainer, mine, each, self._fitting(everyone, settings)))
        return [group * (n // each) for group in drawn[: len(everyone)]]

    def _sync_weights(self) -> None:
        """As a step of TRL's does, which afterwards finds it done."""
        trainer = self.trainer
        if trainer.state.global_step != trainer._last_loaded_step:
            trainer.vllm_generation.sync_weights() if TRL_1 else trainer._move_model_to_vllm()
            trainer._last_loaded_step = trainer.state.global_step

    def _fitting(self, prompts: list[Prompt], settings: SamplingSettings) -> SamplingSettings:
        """The settings, with no more tokens than there is room for behind the longest prompt: a server wants that."""
        if self.max_length is None or self.trainer.args.vllm_mode == "colocate":  # which ends each with the context
            return settings
        room = self.max_length - max(prompt.length for prompt in prompts)
        return replace(settings, max_new_tokens=min(settings.max_new_tokens, room))


_ADVICE = (
    "Raise vllm_max_model_length, or --max-model-len of the server."
    if TRL_1
    else "Raise max_prompt_length, to which trl 0.18 adds max_completion_length to make vLLM's context."
)


def rollout_engine(trainer) -> RolloutEngine | None:
    """The engine of a trainer, if it has one with room for the answers of the meta-prover."""
    args, mrt_args = trainer.args, trainer.mrt_args
    measures = trainer.credit.measures == "episodes" or mrt_args.mrt_prefix != "dataset"
    if not args.use_vllm or not measures:
        return None
    engine = RolloutEngine(trainer)
    answer = mrt_args.mrt_answer_tokens if mrt_args.mrt_estimator == "sample" else 0
    needed = args.max_completion_length + answer
    if engine.max_length is not None and engine.max_length <= needed:
        logger.warning(
            f"vLLM's context of {engine.max_length} tokens has no room for a prompt, max_completion_length: "
            f"{args.max_completion_length} and {answer} tokens of an answer (mrt_answer_tokens). The "
            f"meta-prover answers with the policy in this process, which is slower. {_ADVICE}"
        )
        return None
    return engine


@contextmanager
def live_sampler(trainer, scores: bool = False) -> Iterator[Sampler]:
    """The policy in training, as a sampler: on the engine of its rollouts, or in this process, where it can score."""
    if trainer.rollout_engine is not None and not scores:
        yield trainer.rollout_engine
    else:
        with generating_policy(trainer) as policy:
            yield PolicySampler(policy, text_tokenizer(trainer))


def _context_length(trainer) -> int | None:
    """Tokens of the engine's context; a server of trl 0.18 does not tell."""
    if trainer.args.vllm_mode == "colocate":
        engine = trainer.vllm_generation.llm if TRL_1 else trainer.llm
        return engine.llm_engine.model_config.max_model_len
    if not TRL_1:
        return None
    told = [None]
    if trainer.accelerator.is_main_process:
        told = [trainer.vllm_generation.vllm_client.get_server_info()["model_config"]["max_model_len"]]
    return broadcast_object_list(told, from_process=0)[0]


def _complete(trainer, prompt_ids: list[list[int]], n: int, settings: SamplingSettings) -> list[list[list[int]]]:
    """Through TRL's own call for rollouts, which minds sleep mode and groups of ranks, with other settings."""
    engine = trainer.vllm_generation
    ours = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "max_completion_length": settings.max_new_tokens,
        "logprobs": None,
        "structured_outputs_regex": None,
        "generation_kwargs": {},
    }
    usual = {name: getattr(engine, name) for name in ours}
    vars(engine).update(ours)
    try:
        drawn = engine.generate([ids for ids in prompt_ids for _ in range(n)], None, n)[1]
    finally:
        vars(engine).update(usual)
    return _grouped(drawn, n)


def _complete_18(trainer, prompt_ids: list[list[int]], n: int, settings: SamplingSettings) -> list[list[list[int]]]:
    """trl 0.18 has its calls inline. Its server takes text alone, from which it makes the tokens anew."""
    sampling = {"n": n, "max_tokens": settings.max_new_tokens}
    sampling |= {"temperature": settings.temperature, "top_p": settings.top_p}
    if trainer.vllm_mode == "server":
        tokenizer = text_tokenizer(trainer)
        added = tokenizer.decode(tokenizer("")["input_ids"])  # by the server, in front of every text
        texts = gather_object([text.removeprefix(added) for text in tokenizer.batch_decode(prompt_ids)])
        drawn = [None] * (len(texts) * n)
        if trainer.accelerator.is_main_process:
            drawn = trainer.vllm_client.generate(prompts=texts, **sampling)
        broadcast_object_list(drawn, from_process=0)
        rank = trainer.accelerator.process_index
    else:
        from vllm import SamplingParams

        gathered, rank = [prompt_ids], 0
        if trainer.vllm_tensor_parallel_size > 1:
            gathered = [None] * trainer.vllm_tensor_parallel_size
            torch.distributed.all_gather_object(gathered, prompt_ids, group=trainer.tp_group)
            rank = torch.distributed.get_rank(group=trainer.tp_group)
        outputs = trainer.llm.generate(
            [{"prompt_token_ids": ids} for some in gathered for ids in some],
            sampling_params=SamplingParams(**sampling, detokenize=False),
            use_tqdm=False,
        )
        drawn = [list(completion.token_ids) for output in outputs for completion in output.outputs]
    return _grouped(drawn, n)[rank * len(prompt_ids) : (rank + 1) * len(prompt_ids)]


def _grouped(completions: list[list[int]], n: int) -> list[list[list[int]]]:
    return [list(map(list, completions[first : first + n])) for first in range(0, len(completions), n)]
