r"""The plugin to Open-R1: registers our rewards, callback and trainer with it, without touching a file of it.

A fork needs one line before its own `main`, and recipes may then use `mrt_*` like anything of Open-R1:

```python
from mrt_plugin import register; register()
```
"""

import copy
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import trl
from trl import ModelConfig

from .arguments import MRTArguments, check_known
from .callback import MRTCallback
from .datasets import check_splits
from .launch import REWARDS, check_sft_columns, imported_reward
from .settings import resolve
from .trainer import MRTTrainer
from .upstream.version import FITS_OPEN_R1


if not FITS_OPEN_R1:
    raise ImportError(
        f"Open-R1 pins trl==0.18.0; this is {trl.__version__}. Install its versions (mrt-plugin[open-r1]), or launch "
        "with --upstream trl, which needs no Open-R1."
    )

SEAMS = {  # what is replaced, added to or called
    "open_r1.configs": ["GRPOConfig", "GRPOScriptArguments", "SFTConfig", "ScriptArguments"],
    "open_r1.grpo": ["GRPOConfig", "GRPOTrainer", "get_dataset", "get_reward_funcs", "main"],
    "open_r1.rewards": ["get_reward_funcs"],
    "open_r1.sft": ["get_dataset", "main"],
    "open_r1.utils": ["get_dataset"],
    "open_r1.utils.callbacks": ["CALLBACKS"],
}


def check_seams() -> None:
    """Raises an `ImportError` that names what this module expects of Open-R1 and does not find."""
    for name, attributes in SEAMS.items():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"mrt_plugin registers into {name}, which cannot be imported: {error}. Open-R1 is installed from its "
                "repository, and the versions that it pins with mrt-plugin[open-r1]."
            ) from error
        missing = [attribute for attribute in attributes if not hasattr(module, attribute)]
        if missing:
            raise ImportError(
                f"mrt_plugin expects {', '.join(missing)} in {name}, as Open-R1 has it at commit 1416fa0; this "
                "Open-R1 does not. Use that commit, or launch with --upstream trl."
            )


check_seams()

import open_r1.configs  # noqa: E402
import open_r1.grpo  # noqa: E402
import open_r1.rewards  # noqa: E402
import open_r1.sft  # noqa: E402
import open_r1.utils.callbacks  # noqa: E402


# Its registry is local to a function; these names only serve the error messages.
UPSTREAM_REWARDS = ["accuracy", "binary_code", "cf_code", "code", "code_format", "cosine", "format", "ioi_code"]
UPSTREAM_REWARDS += ["length", "reasoning_steps", "repetition_penalty", "soft_overlong_punishment", "tag_count"]
_get_reward_funcs = open_r1.rewards.get_reward_funcs


@dataclass
class GRPOConfig(MRTArguments, open_r1.configs.GRPOConfig):
    """Open-R1's configuration with the fields of [`~mrt_plugin.MRTArguments`]."""


def get_reward_funcs(script_args) -> list[Callable]:
    """Open-R1's function of that name, which also knows our rewards and dotted paths."""

    def upstream(name: str) -> Callable:
        asked = copy.copy(script_args)
        asked.reward_funcs = [name]
        try:
            return _get_reward_funcs(asked)[0]
        except KeyError:
            check_known("reward_funcs", [name], [*REWARDS, *UPSTREAM_REWARDS])
            raise

    return [
        REWARDS.get(name) or (imported_reward(name) if "." in name else upstream(name))
        for name in script_args.reward_funcs
    ]


def register() -> None:
    """
    Makes `mrt_progress`, `mrt_accuracy` and `mrt_length_penalty` known to Open-R1 as rewards, `mrt_progress` as a
    callback, [`~mrt_plugin.MRTTrainer`] as its trainer and the fields of [`~mrt_plugin.MRTArguments`] to its recipes.

    Names are replaced in `open_r1` and, where they stand there, in the script that is running: a fork's own `grpo.py`
    may call this under `if __name__ == "__main__"`. Calling it twice does no harm.

    Raises:
        `ImportError`: If Open-R1 has not what is to be replaced; it names that.

    Example:
    ```python
    from mrt_plugin import register

    register()
    from open_r1.grpo import main  # knows --reward_funcs accuracy mrt_progress
    ```
    """
    check_seams()
    ours = {
        "get_reward_funcs": (_get_reward_funcs, get_reward_funcs),
        "GRPOConfig": (GRPOConfig.__bases__[1], GRPOConfig),
        "GRPOTrainer": (trl.GRPOTrainer, MRTTrainer),
    }
    for module in (open_r1.configs, open_r1.rewards, open_r1.grpo, sys.modules["__main__"]):
        for name, (theirs, replacement) in ours.items():
            if getattr(module, name, None) is theirs:
                setattr(module, name, replacement)
    open_r1.utils.callbacks.CALLBACKS["mrt_progress"] = lambda model_args: MRTCallback()


def grpo(script_args, training_args: GRPOConfig, model_args: ModelConfig) -> None:
    """Open-R1's `main` for GRPO, after a check of what it would only find out once the model is loaded."""
    register()
    reward_funcs = get_reward_funcs(script_args)
    check_known("callbacks", training_args.callbacks, open_r1.utils.callbacks.CALLBACKS)
    splits = open_r1.utils.get_dataset(script_args)
    wants_eval = training_args.eval_strategy != "no" or training_args.mrt_regret_steps > 0
    train, _ = check_splits(splits, script_args, script_args.dataset_prompt_column, wants_eval)
    resolve(reward_funcs, training_args, {"train_dataset": train})
    _run(open_r1.grpo, splits, script_args, training_args, model_args)


def sft(script_args, training_args, model_args: ModelConfig) -> None:
    """Open-R1's `main` for SFT, after the same check."""
    register()
    check_known("callbacks", training_args.callbacks, open_r1.utils.callbacks.CALLBACKS)
    splits = open_r1.utils.get_dataset(script_args)
    train, _ = check_splits(splits, script_args, None, training_args.eval_strategy != "no")
    check_sft_columns(train, training_args.dataset_text_field)
    _run(open_r1.sft, splits, script_args, training_args, model_args)


def _run(launcher, splits, *arguments) -> None:
    """Open-R1's `main` in a module of its, which is given the splits that were loaded for the check."""
    usual, launcher.get_dataset = launcher.get_dataset, lambda script_args: splits
    try:
        launcher.main(*arguments)
    finally:
        launcher.get_dataset = usual


LAUNCHERS = {
    "grpo": ((open_r1.configs.GRPOScriptArguments, GRPOConfig, ModelConfig), grpo),
    "sft": ((open_r1.configs.ScriptArguments, open_r1.configs.SFTConfig, ModelConfig), sft),
}
