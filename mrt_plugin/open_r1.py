r"""The plugin to Open-R1: our rewards and callback among its own, and its `main` under our launchers.

No file of it is touched. A fork, or Open-R1 itself, needs [`~mrt_plugin.run`] or one line, [`~mrt_plugin.register`];
recipes may then use `mrt_*` like anything of Open-R1.
"""

import copy
from collections.abc import Callable
from dataclasses import make_dataclass
from importlib import import_module
from pathlib import Path
from traceback import walk_tb

import trl
from trl import ModelConfig

from .callback import MRTCallback
from .datasets import GoldArguments, check_sft_columns, check_splits, load, with_solution
from .mistakes import check_known, imported
from .rewards import REWARDS
from .settings import check_held_out, resolve
from .templates import check_thinking
from .upstream.model import load_tokenizer
from .upstream.names import call_instead
from .upstream.version import FITS_OPEN_R1


REGISTRIES = {"open_r1.rewards": ["get_reward_funcs"], "open_r1.utils.callbacks": ["CALLBACKS"]}
LAUNCHERS = {
    "open_r1.configs": ["GRPOConfig", "GRPOScriptArguments", "SFTConfig", "ScriptArguments"],
    "open_r1.grpo": ["get_dataset", "main"],
    "open_r1.sft": ["get_dataset", "main"],
    "open_r1.utils": ["get_dataset"],
}


def check_seams(seams: dict[str, list[str]]) -> None:
    """Raises an `ImportError` that names what this module expects of Open-R1 and does not find."""
    for name, attributes in seams.items():
        try:
            module = import_module(name)
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


def add_names() -> None:
    """Makes our rewards rewards of Open-R1, by their names, and `mrt_progress` a callback of it."""
    check_seams(REGISTRIES)
    call_instead(import_module("open_r1.rewards").get_reward_funcs, get_reward_funcs)
    import_module("open_r1.utils.callbacks").CALLBACKS["mrt_progress"] = lambda model_args: MRTCallback()


def get_reward_funcs(theirs: Callable, script_args, *args, **kwargs) -> list[Callable]:
    """Open-R1's function of that name, or a fork's, which is `theirs`; it also knows our rewards and dotted paths."""

    def find(name: str) -> Callable:
        if name in REWARDS or "." in name:
            return REWARDS.get(name) or imported("reward_funcs", name)
        asked = copy.copy(script_args)
        asked.reward_funcs = [name]
        try:
            return theirs(asked, *args, **kwargs)[0]
        except KeyError as error:  # of the registry, a dict inside the function
            scopes = [frame.f_locals.values() for frame, _ in walk_tb(error.__traceback__.tb_next)]
            registries = [value for scope in scopes for value in scope if isinstance(value, dict)]
            check_known("reward_funcs", [name], [*REWARDS, *(key for registry in registries for key in registry)])
            raise

    return [find(name) for name in script_args.reward_funcs]


def launcher(task: str) -> tuple[tuple, Callable]:
    """Argument types and `main` of `grpo` or `sft`."""
    if not FITS_OPEN_R1:
        raise ImportError(
            f"Open-R1 pins trl==0.18.0; this is {trl.__version__}. Install its versions (mrt-plugin[open-r1]), or "
            "launch with --upstream trl, which needs no Open-R1."
        )
    check_seams(LAUNCHERS)
    configs = import_module("open_r1.configs")
    if task == "grpo":
        script = make_dataclass("GRPOScriptArguments", [], bases=(GoldArguments, configs.GRPOScriptArguments))
        return (script, configs.GRPOConfig, ModelConfig), grpo
    return (configs.ScriptArguments, configs.SFTConfig, ModelConfig), sft


def grpo(script_args, training_args, model_args: ModelConfig) -> None:
    """Open-R1's `main` for GRPO, after a check of what it would only find out once the model is loaded."""
    reward_funcs = import_module("open_r1.rewards").get_reward_funcs(script_args)
    check_held_out(training_args)
    splits, *taken = _load(script_args, training_args, script_args.dataset_prompt_column)
    train, test = (with_solution(rows, script_args.dataset_solution_column) for rows in taken)
    resolve(reward_funcs, training_args, {"train_dataset": train, "eval_dataset": test})
    _tokenizer(training_args, model_args)
    splits |= {script_args.dataset_train_split: train}
    splits |= {} if test is None else {script_args.dataset_test_split: test}
    _run("grpo", splits, script_args, training_args, model_args)


def sft(script_args, training_args, model_args: ModelConfig) -> None:
    """Open-R1's `main` for SFT, after the same check."""
    splits, train, _ = _load(script_args, training_args, None)
    check_sft_columns(train, training_args.dataset_text_field)
    check_thinking(train, _tokenizer(training_args, model_args))
    _run("sft", splits, script_args, training_args, model_args)


def _load(script_args, training_args, prompt_column: str | None) -> tuple:
    """All splits, and those to train and to evaluate on, where these and the callbacks are known."""
    check_known("callbacks", training_args.callbacks, import_module("open_r1.utils.callbacks").CALLBACKS)
    is_file = script_args.dataset_name and Path(script_args.dataset_name).is_file()
    splits = load(script_args.dataset_name) if is_file else import_module("open_r1.utils").get_dataset(script_args)
    return splits, *check_splits(splits, script_args, prompt_column, training_args.eval_strategy != "no")


def _tokenizer(training_args, model_args: ModelConfig):
    """The one that Open-R1 renders with."""
    return load_tokenizer(model_args, training_args.chat_template, model_args.trust_remote_code)


def _run(task: str, splits, *arguments) -> None:
    """Open-R1's `main` in a module of its, which is given the splits that were loaded for the check."""
    module = import_module(f"open_r1.{task}")
    usual, module.get_dataset = module.get_dataset, lambda script_args: splits
    try:
        module.main(*arguments)
    finally:
        module.get_dataset = usual
