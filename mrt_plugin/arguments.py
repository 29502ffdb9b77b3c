r"""Every knob of the package, once. `TrlParser` reads them from a recipe or from the command line."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal, get_args, get_origin

from trl import GRPOConfig

from .credit import CREDITS
from .episodes import CUES
from .meta_prover import ESTIMATORS
from .mistakes import check_known


@dataclass
class MetaProverArguments:
    """How success probabilities are measured. A field's `help` says what it does, its unit, and the paper's value."""

    mrt_episodes: int = field(
        default=6,
        metadata={
            "help": "Most episodes to tell apart in a trace; where there are more, neighbours are merged evenly. The "
            "authors' online variant: 6."
        },
    )
    mrt_cues: list[str] = field(
        default_factory=lambda: list(CUES),
        metadata={
            "help": "A paragraph that begins with one of these may start a new episode. Change them for models that "
            "do not write as R1 does. An empty list: an episode of every three paragraphs. The paper's: "
            + ", ".join(f"'{cue}'" for cue in CUES)
            + "."
        },
    )
    mrt_samples: int = field(
        default=4,
        metadata={
            "help": "Answers that the meta-prover draws after each prefix. The authors' online variant: 4; the "
            "paper's analysis: 8; backtracking: 20. In docs/first-study.md, 1 learns later than 16."
        },
    )
    mrt_termination: str = field(
        default="explain",
        metadata={
            "help": "Text that makes the policy stop and answer. 'explain': the paper's, and the default of builders "
            "and measurements. 'answer': a short one that ends in \\boxed{, and the default of training, where "
            "explained answers can cost more tokens than the rollouts. Anything else is the text itself: it contains "
            "</think>, or, for a model that does not think in tags, ends in \\boxed{. In 'mixed', rewards see the "
            "text in the rows that it stops; Open-R1's `format` gives these rows 0 after 'explain' and 'answer'."
        },
    )
    mrt_estimator: str = field(
        default="sample",
        metadata={
            "help": "How J is estimated. "
            + " ".join(f"'{name}': {estimator.summary}" for name, estimator in ESTIMATORS.items())
        },
    )
    mrt_answer_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a meta-prover's answer. Unset: 64 after mrt_termination: answer, else the 4096 of "
            "the paper's analysis."
        },
    )
    mrt_answer_temperature: float = field(
        default=0.7,
        metadata={"help": "Temperature of the meta-prover's answers. The paper's analysis: 0.7; of regret: 0.6."},
    )
    mrt_answer_top_p: float = field(
        default=1.0, metadata={"help": "top-p of the meta-prover's answers. The paper's analysis: 1; of regret: 0.95."}
    )

    def __post_init__(self):
        if self.mrt_answer_tokens is None:
            self.mrt_answer_tokens = 64 if self.mrt_termination == "answer" else 4096
        for name in ("mrt_episodes", "mrt_samples", "mrt_answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.mrt_answer_temperature < 0:
            raise ValueError(f"mrt_answer_temperature must not be negative, got {self.mrt_answer_temperature}.")
        if not 0 < self.mrt_answer_top_p <= 1:
            raise ValueError(f"mrt_answer_top_p must be in (0, 1], got {self.mrt_answer_top_p}.")
        check_known("mrt_estimator", [self.mrt_estimator], ESTIMATORS)
        if hasattr(super(), "__post_init__"):  # of the configuration that these fields are added to
            super().__post_init__()


@dataclass
class MRTArguments(MetaProverArguments):
    """Arguments of training with MRT, beside those of [`MetaProverArguments`]."""

    mrt_termination: str = field(
        default="answer", metadata=MetaProverArguments.__dataclass_fields__["mrt_termination"].metadata
    )
    mrt_credit: str = field(
        default="auto",
        metadata={
            "help": "How progress enters the update. "
            + " ".join(f"'{credit.name}': {credit.summary}" for credit in CREDITS.values())
            + " 'auto': 'dense' if mrt_progress is among the reward functions, else 'none'. A dotted path: a "
            "mrt_plugin.credit.Credit of your own."
        },
    )
    mrt_prefix: Literal["none", "dataset", "online"] = field(
        default="none",
        metadata={
            "help": "Where rollouts start. 'none': at the bare problem. 'dataset': after the thinking in column "
            "`prefix`, whose success probability is in column `prefix_success`. 'online': after a random number of "
            "episodes of one fresh trace for each problem."
        },
    )
    mrt_alpha: float = field(
        default=1.0,
        metadata={
            "help": "Weight of progress beside the outcome reward. The paper sweeps 0, 0.2, 0.4, 0.8 and 1.6 for "
            "backtracking and gives none for open-ended RL; the authors' online variant uses 1. In "
            "docs/first-study.md, with an earlier 'dense', 0.2 learns later than 0.8, 1.6 no sooner."
        },
    )
    mrt_horizon: float = field(
        default=1.0,
        metadata={
            "help": "How far ahead 'dense' looks, in mean episode lengths (ours): each token gets the progress of "
            "the episodes that end by then. 0 (our reading of the authors' online variant): each token gets the whole "
            "progress of its episode, which rewards merging two that both gain; in docs/first-study.md trainings with "
            "it collapse."
        },
    )
    mrt_length_alpha: float = field(
        default=0.1,
        metadata={
            "help": "Weight of mrt_length_penalty, in [0, 1): a right answer is worth 1 - weight x "
            "sigmoid(standardised length) (arXiv 2502.04463, which sweeps 0.05, 0.1, 0.2 and 0.4)."
        },
    )
    mrt_regret_steps: int = field(
        default=0,
        metadata={"help": "Optimiser steps between measurements of regret on held-out problems; 0: never."},
    )
    mrt_regret_problems: int = field(
        default=32, metadata={"help": "How many problems of the evaluation split to measure regret on."}
    )
    mrt_keep_rollouts: int = field(
        default=0,
        metadata={
            "help": "With 'dense': rollouts to keep for `mrt view` whenever the run logs (logging_steps), in "
            "output_dir/rollouts, with J after each episode and the advantage of each token. They are the first rows "
            "of the main process, so setting it to num_generations keeps the group of one problem. 0 keeps none."
        },
    )

    def __post_init__(self):
        if self.mrt_regret_problems < 1:
            raise ValueError(f"mrt_regret_problems must be at least 1, got {self.mrt_regret_problems}.")
        for name in ("mrt_alpha", "mrt_horizon", "mrt_regret_steps", "mrt_keep_rollouts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if "." not in self.mrt_credit:
            check_known("mrt_credit", [self.mrt_credit], ["auto", *CREDITS])
        if not 0 <= self.mrt_length_alpha < 1:
            raise ValueError(f"mrt_length_alpha must be in [0, 1), got {self.mrt_length_alpha}.")
        check_choices(self, MRTArguments)
        super().__post_init__()
        if isinstance(self, GRPOConfig):  # for a trainer; one that is not ours would leave these out
            import_module(".registration", __package__).guard_trainers()


def check_choices(arguments, dataclass_type: type) -> None:
    """Raises a `ValueError` if a field that the dataclass declares with `Literal` has another value."""
    for name, annotation in dataclass_type.__annotations__.items():
        choices = get_args(annotation)
        if get_origin(annotation) is Literal and getattr(arguments, name) not in choices:
            raise ValueError(f"{name} must be one of {list(choices)}, got {getattr(arguments, name)!r}.")


@dataclass
class MRTConfig(MRTArguments, GRPOConfig):
    """
    TRL's [`~trl.GRPOConfig`] with the fields of [`MRTArguments`].

    ```python
    >>> config = MRTConfig(output_dir="runs/mrt", use_cpu=True, bf16=False, mrt_credit="dense", num_generations=4)
    >>> config.mrt_samples, config.num_generations
    (4, 4)

    ```
    """
