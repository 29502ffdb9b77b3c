r"""The vLLM of a trainer's rollouts, behind the sampler's seam: all branches of a step in one call.

TRL holds vLLM in each process (colocate) or asks a server; [`~mrt_plugin.upstream.vllm`] talks to both. Prompts that
branch off one trace share it through vLLM's prefix cache. Left out: seeds, and scoring, which is the policy's.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from accelerate.utils import gather_object

from ..meta_prover import ESTIMATORS
from ..upstream.trainer import generating_policy, text_tokenizer
from ..upstream.vllm import ADVICE, complete, context_length, sync_weights
from .policy import PolicySampler
from .sampling import Completion, Prompt, Sampler, SamplingSettings


logger = logging.getLogger(__name__)


class RolloutEngine:
    """Samples with the vLLM of a trainer (`use_vllm`), after giving it the current weights where TRL has not yet."""

    scores = False

    def __init__(self, trainer):
        self.trainer, self.tokenizer = trainer, text_tokenizer(trainer)
        self.max_length = context_length(trainer)

    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[Completion] | None]:
        """
        As in [`~mrt_plugin.engines.sampling.Sampler`], but to be called on every rank, also with no prompts. Those of
        all ranks are dealt out evenly, so that no vLLM waits for the busiest; each rank is given its own back.

        Raises:
            `ValueError`: If the settings have a seed.
        """
        if settings.seed is not None:
            raise ValueError("The engine of the rollouts draws from its own random numbers; seed has to be None.")
        accelerator = self.trainer.accelerator
        counts = gather_object([len(prompts)])
        everyone = gather_object(list(prompts))  # which hold a trace once, whatever branches off it
        # In colocate, the context ends each completion by itself; a server refuses more tokens than there is room for.
        needed = settings.max_new_tokens if self.trainer.args.vllm_mode == "server" else 1
        fits = [prompt.fits(self.max_length, needed) for prompt in everyone]
        if not all(fits):
            logger.warning(
                f"vLLM's context of {self.max_length} tokens has no room for an answer behind {fits.count(False)} of "
                f"{len(fits)} prompts; they have none. {ADVICE}"
            )
        answers = iter(self._sample([prompt for prompt, fit in zip(everyone, fits, strict=True) if fit], n, settings))
        drawn = [next(answers) if fit else None for fit in fits]
        first = sum(counts[: accelerator.process_index])
        return drawn[first : first + len(prompts)]

    def _sample(self, everyone: list[Prompt], n: int, settings: SamplingSettings) -> list[list[Completion]]:
        """Completions of the prompts of all ranks, on all ranks."""
        if not everyone:
            return []
        accelerator = self.trainer.accelerator
        sync_weights(self.trainer)
        share = -(-len(everyone) // accelerator.num_processes)
        first = accelerator.process_index * share
        mine = [prompt.token_ids for prompt in everyone[first : first + share]]
        mine += [everyone[-1].token_ids] * (share - len(mine))  # a group of ranks takes as many from each
        each = n if settings.temperature else 1  # vLLM refuses to draw several at temperature 0
        drawn = gather_object(complete(self.trainer, mine, each, settings))
        return [group * (n // each) for group in drawn[: len(everyone)]]


def rollout_engine(trainer) -> RolloutEngine | None:
    """The engine of a trainer, if it has one with room for the answers of the meta-prover."""
    args, mrt_args = trainer.args, trainer.mrt_args
    measures = trainer.credit.measures == "episodes" or mrt_args.mrt_prefix != "dataset"
    if not args.use_vllm or not measures:
        return None
    engine = RolloutEngine(trainer)
    answer = mrt_args.mrt_answer_tokens if ESTIMATORS[mrt_args.mrt_estimator].draws_answers else 0
    needed = args.max_completion_length + answer
    if engine.max_length is not None and engine.max_length <= needed:
        short = (
            f"vLLM's context of {engine.max_length} tokens has no room for a prompt, max_completion_length: "
            f"{args.max_completion_length} and {answer} tokens of an answer (mrt_answer_tokens)."
        )
        if args.vllm_mode == "colocate" and args.vllm_tensor_parallel_size > 1:
            # vLLM needs equal random states on the ranks of a group; answers that the policy draws would change them.
            raise ValueError(f"{short} {ADVICE}")
        logger.warning(f"{short} The meta-prover answers with the policy in this process, which is slower. {ADVICE}")
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
