r"""One recipe for both generations of TRL: what was renamed or removed is translated, what is unknown is named.

Open-R1's recipes speak trl 0.18. A recipe in the names of 1.x runs on 0.18 too.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn, get_type_hints

import trl
from trl import GRPOConfig, TrlParser

from ..arguments import MRTArguments
from ..mistakes import Mistake, check_recipe, did_you_mean, named_by, sentence
from ..shipped import command_of, find_recipe
from .values import read_recipe, read_text, read_value, reader
from .version import TRL_1


logger = logging.getLogger(__name__)

RENAMED = {  # on trl 0.18 -> on 1.x
    "group_by_length": "train_sampling_strategy",
    "max_prompt_length": "dataset_max_prompt_tokens",  # ours: TRL has no such field any more
    "max_seq_length": "max_length",
    "torch_dtype": "dtype",
    "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
    "wandb_log_unique_prompts": "log_unique_prompts",
    "warmup_ratio": "warmup_steps",  # below 1 it is a share
}
VALUES = {  # on trl 0.18 -> on 1.x, of a field under its name on 1.x
    "scale_rewards": {True: "group", False: "none"},
    "train_sampling_strategy": {True: "group_by_length", False: "random"},
    "loss_type": {"bnpo": "bnpo", "grpo": "grpo", "dr_grpo": "dr_grpo", "nll": "nll"},
}
FIXED = {  # what holds where a field does not exist; it may be said, nothing else may
    "importance_sampling_level": "token",
    "multi_objective_aggregation": "sum_then_normalize",
    "save_safetensors": True,
    "use_liger_loss": False,
    "vllm_importance_sampling_correction": False,
    # Of Open-R1, where its own launcher does not run.
    "benchmarks": [],
    "hub_model_revision": "main",
    "overwrite_hub_revision": False,
    "push_to_hub_revision": False,
}
WITHOUT_EFFECT = ("overwrite_output_dir", "vllm_device")
"""In Open-R1's recipes, but nothing there or in TRL reads them."""
OF_ITS_REWARDS = ("code_", "cosine_", "e2b_", "ioi_", "max_completion_len", "morph_", "parallel_code_", "repetition_")
OF_ITS_REWARDS += ("soft_punish_",)
NEEDS_OPEN_R1 = "install Open-R1 with the versions that it pins (mrt-plugin[open-r1]), or leave it out"


@cache
def with_mrt_fields(dataclass_type: type) -> type:
    """
    A script's configuration of GRPO with the fields of [`MRTArguments`]; other dataclasses as they are.

    ```python
    >>> with_mrt_fields(GRPOConfig)(output_dir="out", use_cpu=True, bf16=False, mrt_samples=8).mrt_samples
    8

    ```
    """
    if not issubclass(dataclass_type, GRPOConfig) or issubclass(dataclass_type, MRTArguments):
        return dataclass_type
    body = {
        "__doc__": f"{dataclass_type.__name__} with the fields of MRTArguments.",
        "__reduce__": lambda self: (_unpickled, (dataclass_type, vars(self))),  # training_args.bin, read anywhere
    }
    return dataclass(type(f"MRT{dataclass_type.__name__}", (MRTArguments, dataclass_type), body))


def _unpickled(dataclass_type: type, state: dict):
    arguments = object.__new__(with_mrt_fields(dataclass_type))
    vars(arguments).update(state)
    return arguments


def weights_by_name(weights: list[float], names: list[str], asked: list[str]) -> list[float]:
    """
    The weights of a recipe's rewards for those that the command line names instead. A new one gets 1.

    ```python
    >>> weights_by_name([1.0, 0.1], ["code", "format"], ["format", "mrt_progress"])
    [0.1, 1.0]

    ```
    """
    if len(weights) != len(names) or len(set(names)) < len(names):
        raise ValueError(
            f"reward_weights: the recipe has {weights} for the rewards {names}, which does not tell those of {asked}. "
            f"Add one for each: --reward_weights {' '.join(['1.0'] * len(asked))}"
        )
    known = dict(zip(names, weights, strict=True))
    return [known.get(name, 1.0) for name in asked]


class RecipeParser(TrlParser):
    """
    TRL's parser, for recipes and command lines of both generations.

    Args:
        dataclass_types (`Iterable[type]`): Dataclasses that hold the fields.

    Raises:
        `ValueError`: For a field or a value that this trl does not have and that cannot be translated; it names the
            field and the nearest known name.

    Example:
    ```python
    >>> from trl import ModelConfig
    >>> RecipeParser(ModelConfig).parse_args_and_config(["--torch_dtyp", "bfloat16"])
    Traceback (most recent call last):
        ...
    ValueError: trl ... has no field '--torch_dtyp'. Did you mean 'torch_dtype'?

    ```
    """

    said: dict[str, list[str]] = {}
    """What the command line says, by option."""
    recipe: tuple[dict, dict] = {}, {}
    """What the recipe says, by field: values, and their text."""

    def parse_args_and_config(self, args: Iterable[str] | None = None, *more, **kwargs) -> tuple:
        self._know_mrt_fields()
        translated, options = [], _options(list(sys.argv[1:] if args is None else args))
        self.said = dict(options)
        for path in self.said.get("--config", [])[:1]:
            self.said["--config"][0] = find_recipe(path)
            self.recipe = read_recipe(self.said["--config"][0])
        for option, values in options:
            name = option.removeprefix("--")
            known = option in self._option_string_actions and name not in (*VALUES, "warmup_steps")
            if option == "--config" or known:
                translated += [option, *values]
            else:
                text = values if isinstance(FIXED.get(name), list) else values[0] if values else "true"
                for new_name, new_value in self._translate(name, self._read(name, text, text), option):
                    translated += [f"--{new_name}", str(new_value)]
        return super().parse_args_and_config(translated, *more, **kwargs)

    def _know_mrt_fields(self) -> None:
        types = [with_mrt_fields(dataclass_type) for dataclass_type in self.dataclass_types]
        if types != list(self.dataclass_types):
            self.dataclass_types = types
            self._add_dataclass_arguments(MRTArguments)
        self.hints = {name: hint for cls in self.dataclass_types for name, hint in get_type_hints(cls).items()}
        for action in self._actions:
            action.type = reader(action, self.hints.get(action.dest))
            if action.nargs == "+":  # a list; the command line may empty the recipe's
                action.nargs = "*"

    def set_defaults_with_config(self, **config) -> list[str]:
        if "--dataset_name" in self.said:  # else the recipe's mixture, of which it is no part, would win
            config.pop("dataset_mixture", None)
        values, texts = self.recipe
        config = {
            name: self._read(name, values.get(name, value), texts.get(name, str(value)))
            for name, value in config.items()
        }
        asked = self.said.get("--reward_funcs")
        if asked and config.get("reward_weights") and "--reward_weights" not in self.said:
            default = next((action.default for action in self._actions if action.dest == "reward_funcs"), None)
            named = config.get("reward_funcs", default) or []
            config["reward_weights"] = weights_by_name(config["reward_weights"], named, asked)
            if os.environ.get("RANK", "0") == "0":
                pairs = zip(asked, config["reward_weights"], strict=True)
                said = ", ".join(f"{name} {weight}" + " (new)" * (name not in named) for name, weight in pairs)
                logger.warning("reward_weights of the recipe, by name: %s.", said)
        translated = {}
        for name, value in config.items():
            if name not in FIXED or f"--{name}" not in self.said:
                translated |= dict(self._translate(name, value, name))
        if config.get("warmup_steps"):  # as on 0.18, it wins over warmup_ratio
            translated |= dict(self._translate("warmup_steps", config["warmup_steps"], "warmup_steps"))
        for action in self._actions:
            if translated.get(action.dest) is not None:
                self._check_value(action, translated[action.dest])
        return super().set_defaults_with_config(**translated)

    def _read(self, name: str, value, text):
        """The value of a field under a name of either generation; see [`~mrt_plugin.upstream.values.read_value`]."""
        names = [name, RENAMED.get(name), *(old for old, new in RENAMED.items() if new == name)]
        actions = [action for known in names for action in self._actions if action.dest == known]
        if VALUES.keys() & names or (name in FIXED and not actions):  # told apart by value, of any type
            return read_text(value) if isinstance(value, str) else value
        return read_value(actions[0], self.hints.get(actions[0].dest), value, text) if actions else value

    def _check_value(self, action, value) -> None:
        """Of argparse, for a field with choices."""
        if action.choices and value not in action.choices:
            nearest = did_you_mean(str(value), map(str, action.choices))
            raise ValueError(f"{action.dest}: {value!r} is none of {list(action.choices)}.{nearest}")

    def _translate(self, name: str, value, written: str) -> list[tuple[str, object]]:
        """The field under the name, and with the value, that this trl has for it; none where it says nothing."""
        known = {action.dest for action in self._actions}
        if not TRL_1 and name == "warmup_steps" and 0 < value < 1:
            name = "warmup_ratio"
        new_name = RENAMED.get(name, name)
        old_name = next((old for old, new in RENAMED.items() if new == new_name), name)
        here = name if name in known else new_name if TRL_1 else old_name
        if here not in known:
            if name in WITHOUT_EFFECT:
                logger.warning("%s is left out; it has no effect in Open-R1 either.", written)
                return []
            if name in FIXED:
                if value != FIXED[name]:
                    raise ValueError(
                        f"{written}: {value!r} has no equivalent here; with trl {trl.__version__} and "
                        f"without Open-R1's launcher it is always {FIXED[name]!r}."
                    )
                return []
            if name.startswith(OF_ITS_REWARDS):
                raise ValueError(f"{written} is a field of Open-R1's rewards; {NEEDS_OPEN_R1}.")
            raise ValueError(
                f"trl {trl.__version__} has no field {written!r}.{did_you_mean(name, known | set(RENAMED))}"
            )
        values = VALUES.get(new_name, {})
        if TRL_1:
            return [(here, values.get(value, value) if values else value)]
        values = {new: old for old, new in values.items()}
        if values and value not in (*values, *values.values()):
            raise ValueError(f"trl {trl.__version__} has no {written}: {value}; it has {list(values)}.")
        return [(here, values.get(value, value) if values else value)]


def _options(args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """
    The options of a command line with their values.

    ```python
    >>> _options(["--bf16", "--reward_funcs", "a", "b", "--seed=1"])
    [('--bf16', []), ('--reward_funcs', ['a', 'b']), ('--seed', ['1'])]

    ```
    """
    options: list[tuple[str, list[str]]] = []
    for argument in args:
        if argument.startswith("--") or argument == "-h":
            option, equals, value = argument.partition("=")
            options.append((option, [value] if equals else []))
        elif options:
            options[-1][1].append(argument)
        else:
            raise ValueError(f"{argument!r} on the command line belongs to no field; write --field value.")
    return options


def run_recipe(task: str, dataclass_types: tuple, main: Callable, arguments: list[str], epilog: str = "") -> None:
    """Calls `main` with what the recipe and the command line say; a [`Mistake`] names the recipe."""
    recipe = recipe_in(arguments)
    if not arguments:
        raise Mistake(f"give it a recipe: mrt {task} --config RECIPE. `mrt recipes` lists those of the package.")
    with named_by(recipe):
        if recipe is not None:
            check_recipe(Path(find_recipe(recipe)))
        parser = RecipeParser(dataclass_types, prog=f"mrt {task}", epilog=epilog)
        parser.error = _refuse
        try:
            parsed = parser.parse_args_and_config(arguments)
        except ValueError as error:  # whoever raised it
            other = command_of(recipe or "") or task
            hint = f" Recipes in {Path(recipe).parent.name}/ are for `mrt {other}`." if other != task else ""
            raise Mistake(sentence(error) + hint) from error
        main(*parsed)


def recipe_in(arguments: Sequence[str]) -> str | None:
    """
    The recipe that a command line names.

    >>> recipe_in(["--seed", "1", "--config", "a.yaml"]), recipe_in(["--config=a.yaml"]), recipe_in(["--seed", "1"])
    ('a.yaml', 'a.yaml', None)
    """
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--config":
            return value if equals else next(iter(arguments[index + 1 :]), option)
    return None


def _refuse(message: str) -> NoReturn:
    """In place of argparse's page of usage."""
    raise Mistake(message)
