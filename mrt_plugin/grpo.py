r"""GRPO and MRT from a recipe, on the current TRL.

    accelerate launch -m mrt_plugin.grpo --config recipes/tiny-cpu/grpo/config_mrt.yaml --learning_rate 1e-5

A recipe holds fields of TRL's `GRPOConfig` and `ModelConfig`, of `MRTArguments`, and of `GRPOScriptArguments`
below, which follow Open-R1's names. A field on the command line wins. A run that finds a checkpoint in
`output_dir` goes on from there.
"""

import difflib
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, update_wrapper

import trl
import trl.rewards
from trl import GRPOConfig, ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from . import rewards
from .arguments import MRTArguments
from .launch import load_splits, model_init_kwargs, resume_point


logger = logging.getLogger(__name__)

REWARDS = {
    "mrt_accuracy": rewards.mrt_accuracy,
    "mrt_progress": rewards.mrt_progress,
    "mrt_length_penalty": rewards.mrt_length_penalty,
    "accuracy": trl.rewards.accuracy_reward,
    "format": trl.rewards.think_format_reward,
}


@dataclass
class GRPOScriptArguments(ScriptArguments):
    """Arguments of the script: the rewards and the data."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["mrt_accuracy", "mrt_progress"],
        metadata={
            "help": f"Reward functions: {', '.join(REWARDS)}, or a dotted path to one of your own. mrt_progress "
            "switches MRT on."
        },
    )
    dataset_prompt_column: str = field(
        default="prompt",
        metadata={"help": "Column with the problem: its text, or a list of messages."},
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt before every problem."})
    callbacks: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Known: mrt_progress. Accepted for Open-R1's recipes; MRTTrainer adds its callback by itself."
        },
    )


def get_reward(name: str, mrt_args: MRTArguments) -> Callable:
    """
    The reward function of a name or a dotted path.

    ```python
    >>> get_reward("mrt_acuracy", MRTArguments())
    Traceback (most recent call last):
        ...
    ValueError: Unknown reward function 'mrt_acuracy'. Did you mean 'mrt_accuracy'? ...

    ```
    """
    if name == "mrt_length_penalty":
        penalty = partial(rewards.mrt_length_penalty, alpha=mrt_args.mrt_length_alpha)
        return update_wrapper(penalty, rewards.mrt_length_penalty)
    if name in REWARDS:
        return REWARDS[name]
    if "." in name:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute)
    close = difflib.get_close_matches(name, REWARDS, n=1)
    raise ValueError(
        f"Unknown reward function {name!r}. {f'Did you mean {close[0]!r}? ' if close else ''}"
        f"Known are {', '.join(REWARDS)} and dotted paths."
    )


def make_conversation(example: dict, column: str, system_prompt: str | None) -> dict:
    """A row's `prompt`, as messages that end in the user's turn."""
    problem = example[column]
    messages = problem if isinstance(problem, list) else [{"role": "user", "content": problem}]
    return {"prompt": [{"role": "system", "content": system_prompt}, *messages] if system_prompt else messages}


def main(script_args: GRPOScriptArguments, training_args: GRPOConfig, model_args: ModelConfig, mrt_args: MRTArguments):
    from .trainer import MRTTrainer

    unknown = set(script_args.callbacks) - {"mrt_progress"}
    if unknown:
        raise ValueError(f"Unknown callback(s) {sorted(unknown)}. Known: mrt_progress.")
    reward_funcs = [get_reward(name, mrt_args) for name in script_args.reward_funcs]
    wants_eval = training_args.eval_strategy != "no" or mrt_args.mrt_regret_steps > 0
    train, test = load_splits(script_args, script_args.dataset_prompt_column, wants_eval)
    conversation = partial(
        make_conversation, column=script_args.dataset_prompt_column, system_prompt=script_args.system_prompt
    )
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    trainer = MRTTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=reward_funcs,
        args=training_args,
        mrt_args=mrt_args,
        train_dataset=train.map(conversation),
        eval_dataset=test.map(conversation) if wants_eval else None,
        peft_config=get_peft_config(model_args),
        quantization_config=get_quantization_config(model_args),
    )
    trainer.train(resume_from_checkpoint=resume_point(training_args))
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)


def make_parser() -> TrlParser:
    return TrlParser((GRPOScriptArguments, GRPOConfig, ModelConfig, MRTArguments), prog="mrt grpo")


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
