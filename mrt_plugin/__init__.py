r"""Meta Reinforcement Fine-Tuning (MRT, arXiv 2503.07572) for TRL and Open-R1: credit for the progress of every
episode.

The names below are all that a fork or a notebook needs. They are imported on first use, so that the grader's
workers, which import this package too, do not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .arguments import MRTArguments as MRTArguments
    from .arguments import MRTConfig as MRTConfig
    from .callback import MRTCallback as MRTCallback
    from .engines.policy import PolicySampler as PolicySampler
    from .episodes import episode_spans as episode_spans
    from .grading import grade as grade
    from .meta_prover import MetaProver as MetaProver
    from .progress import normalized_regret as normalized_regret
    from .registration import register as register
    from .rewards import mrt_accuracy as mrt_accuracy
    from .rewards import mrt_length_penalty as mrt_length_penalty
    from .rewards import mrt_progress as mrt_progress
    from .trainer import MRTTrainer as MRTTrainer

__version__ = "0.1.0"

_MODULES = {
    "MRTArguments": "arguments",
    "MRTCallback": "callback",
    "MRTConfig": "arguments",
    "MRTTrainer": "trainer",
    "MetaProver": "meta_prover",
    "PolicySampler": "engines.policy",
    "episode_spans": "episodes",
    "grade": "grading",
    "mrt_accuracy": "rewards",
    "mrt_length_penalty": "rewards",
    "mrt_progress": "rewards",
    "normalized_regret": "progress",
    "register": "registration",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
