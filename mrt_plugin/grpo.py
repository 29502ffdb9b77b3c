r"""GRPO and MRT from a recipe.

    accelerate launch -m mrt_plugin.grpo --config recipes/tiny-cpu/grpo/config_mrt.yaml --learning_rate 1e-5

A recipe holds fields of TRL's `GRPOConfig` and `ModelConfig`, of `MRTArguments`, and of `GRPOScriptArguments`
below, which follow Open-R1's names. A field on the command line wins. A run that finds a whole checkpoint
in `output_dir` resumes from it. With Open-R1 installed (or `--upstream open-r1`), its own `main` runs the recipe.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import trl.rewards
from datasets import Dataset, IterableDataset
from trl import ModelConfig, get_peft_config

from .arguments import MRTConfig
from .datasets import GoldArguments, conversation, load_splits, short_enough, with_solution
from .launch import RecipeArguments, launch, train_and_save
from .mistakes import as_command, check_known, imported
from .rewards import REWARDS
from .settings import resolve
from .tokens import tokenize
from .trainer import MRTTrainer
from .upstream.model import model_loading, tokenizer_of
from .upstream.recipe import NEEDS_OPEN_R1
from .upstream.rewards import ELSEWHERE, FORM


KNOWN_REWARDS = REWARDS | FORM
if hasattr(trl.rewards, "accuracy_reward"):
    KNOWN_REWARDS["accuracy"] = trl.rewards.accuracy_reward


@dataclass
class GRPOScriptArguments(GoldArguments, RecipeArguments):
    """Arguments of the script: the rewards and the data."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["mrt_accuracy", "mrt_progress"],
        metadata={
            "help": f"Reward functions: {', '.join(KNOWN_REWARDS)}, or a dotted path to one of your own. mrt_progress "
            "switches MRT on."
        },
    )
    dataset_prompt_column: str = field(
        default="prompt",
        metadata={"help": "Column with the problem: its text, or a list of messages."},
    )
    dataset_max_prompt_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Leave out rows whose prompt, with its column `prefix` if there is one, has more tokens. What "
            "max_prompt_length, which cuts the problem's beginning off on trl 0.18, means on 1.x."
        },
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt before every problem."})


def get_reward(name: str) -> Callable:
    """
    The reward function of a name or a dotted path.

    ```python
    >>> get_reward("mrt_acuracy")
    Traceback (most recent call last):
        ...
    ValueError: reward_funcs: unknown 'mrt_acuracy'. Did you mean 'mrt_accuracy'? ...

    ```
    """
    if "." in name:
        return imported("reward_funcs", name)
    if name in ELSEWHERE:
        raise ValueError(f"reward_funcs: {name!r} is a reward of Open-R1's; {NEEDS_OPEN_R1}.")
    check_known("reward_funcs", [name], KNOWN_REWARDS)
    return KNOWN_REWARDS[name]


def without_long_prompts(rows: Dataset | IterableDataset, tokenizer, most: int) -> Dataset | IterableDataset:
    """The rows whose prompt, with its prefix, has at most so many tokens; those of a stream are found as it comes."""

    def fits(row: dict) -> bool:
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        return len(tokenize(tokenizer, prompt + row.get("prefix", ""))) <= most

    if not hasattr(rows, "select"):
        return rows.filter(fits)
    return short_enough(rows, fits, "dataset_max_prompt_tokens", most)


def main(script_args: GRPOScriptArguments, training_args: MRTConfig, model_args: ModelConfig):
    reward_funcs = [get_reward(name) for name in script_args.reward_funcs]
    wants_eval = training_args.eval_strategy != "no" or training_args.mrt_regret_steps > 0
    splits = load_splits(script_args, script_args.dataset_prompt_column, wants_eval)
    train, test = (with_solution(rows, script_args.dataset_solution_column) for rows in splits)
    # Refuses before anything is loaded.
    resolve(reward_funcs, training_args, {"train_dataset": train, "eval_dataset": test})

    def with_prompt(row: dict) -> dict:
        return {"prompt": conversation(row[script_args.dataset_prompt_column], script_args.system_prompt)}

    tokenizer = tokenizer_of(script_args, training_args, model_args)
    model_kwargs = model_loading(script_args, training_args, model_args)
    train = train.map(with_prompt)
    if script_args.dataset_max_prompt_tokens is not None:
        train = without_long_prompts(train, tokenizer, script_args.dataset_max_prompt_tokens)
    trainer = MRTTrainer(
        reward_funcs=reward_funcs,
        args=training_args,
        train_dataset=train,
        eval_dataset=test.map(with_prompt) if wants_eval else None,
        peft_config=get_peft_config(model_args),
        **model_kwargs,
    )
    train_and_save(trainer, script_args.dataset_name)


def run(arguments: list[str] | None = None) -> None:
    """Runs a recipe; `arguments` are those of the command line."""
    launch("grpo", (GRPOScriptArguments, MRTConfig, ModelConfig), main, arguments)


if __name__ == "__main__":
    as_command("grpo", run)
