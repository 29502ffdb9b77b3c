r"""The vLLM of a trainer's rollouts, which TRL holds in each process (colocate) or asks as a server."""

import torch
from accelerate.utils import broadcast_object_list, gather_object

from ..engines.sampling import Completion, SamplingSettings
from ..tokens import eos_ids
from .trainer import text_tokenizer
from .version import TRL_1


CONTEXT = "vllm_max_model_length" if TRL_1 else "max_prompt_length"
"""The field that vLLM's context in process follows from."""

ADVICE = f"Raise {CONTEXT}, " + (
    "or --max-model-len of the server."
    if TRL_1
    else "to which trl 0.18 adds max_completion_length to make vLLM's context."
)
"""What to do where vLLM's context is too short."""


def takes_token_ids(args) -> bool:
    """Whether TRL can give its vLLM prompts in token ids; 0.18 only in process, without tensor parallelism."""
    return TRL_1 or (args.vllm_mode, args.vllm_tensor_parallel_size) == ("colocate", 1)


def context_length(trainer) -> int | None:
    """Tokens of vLLM's context; `None` without vLLM, and a server of trl 0.18 does not tell."""
    if not trainer.args.use_vllm:
        return None
    if trainer.args.vllm_mode == "colocate":
        llm = trainer.vllm_generation.llm if TRL_1 else trainer.llm
        return llm.llm_engine.model_config.max_model_len
    if not TRL_1:
        return None
    told = [None]
    if trainer.accelerator.is_main_process:
        told = [trainer.vllm_generation.vllm_client.get_server_info()["model_config"]["max_model_len"]]
    return broadcast_object_list(told, from_process=0)[0]


def prompt_room(args, context: int | None = None) -> int | None:
    """
    Most tokens of a prompt with its prefix that leave room for a completion in vLLM's context; `None` without vLLM, or
    where that `context` is not given and no argument tells it.
    """
    if not args.use_vllm:
        return None
    in_process = args.vllm_mode == "colocate"
    if not TRL_1:  # builds it in process for just that, and a server does not tell
        return args.max_prompt_length if in_process else None
    if context is None and in_process:
        context = args.vllm_max_model_length
    return None if context is None else context - args.max_completion_length


def sync_weights(trainer) -> None:
    """Gives vLLM the current weights once a step, as a step of TRL's does, which afterwards finds it done."""
    if trainer.state.global_step != trainer._last_loaded_step:
        trainer.vllm_generation.sync_weights() if TRL_1 else trainer._move_model_to_vllm()
        trainer._last_loaded_step = trainer.state.global_step


def _complete_1(trainer, prompt_ids: list[list[int]], n: int, settings: SamplingSettings) -> list[list[Completion]]:
    """Through TRL's own call for rollouts, which minds sleep mode and groups of ranks, with other settings."""
    generation = trainer.vllm_generation
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
    usual = {name: getattr(generation, name) for name in ours}
    vars(generation).update(ours)
    try:
        drawn = generation.generate([ids for ids in prompt_ids for _ in range(n)], None, n)[1]
    finally:
        vars(generation).update(usual)
    return _grouped(_by_last_token(trainer, drawn), n)


def _complete_18(trainer, prompt_ids: list[list[int]], n: int, settings: SamplingSettings) -> list[list[Completion]]:
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
        completions, rank = _by_last_token(trainer, drawn), trainer.accelerator.process_index
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
        drawn = [one for output in outputs for one in output.outputs]
        completions = [Completion(list(one.token_ids), one.finish_reason == "stop") for one in drawn]
    return _grouped(completions, n)[rank * len(prompt_ids) : (rank + 1) * len(prompt_ids)]


complete = _complete_1 if TRL_1 else _complete_18
"""Gives `n` completions for each prompt; to be called on every rank, with as many prompts on each."""


def _by_last_token(trainer, drawn: list[list[int]]) -> list[Completion]:
    """Completions from TRL's own calls, which leave vLLM's finish reason out, but not the token that ends one."""
    ends = {text_tokenizer(trainer).eos_token_id, *eos_ids(trainer.model.generation_config)}
    return [Completion(list(ids), bool(ids) and ids[-1] in ends) for ids in drawn]


def _grouped(completions: list[Completion], n: int) -> list[list[Completion]]:
    return [completions[first : first + n] for first in range(0, len(completions), n)]
