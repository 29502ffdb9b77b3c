r"""The recipes that come with the package, by their names: their paths below `recipes/`.

mrt recipes
mrt recipes DeepSeek-R1-Distill-Qwen-1.5B/grpo/config_mrt_lora.yaml > mine.yaml
mrt grpo --config DeepSeek-R1-Distill-Qwen-1.5B/grpo/config_mrt_lora.yaml
"""

import argparse
from pathlib import Path

from .mistakes import Mistake, did_you_mean, named_by


_HERE = Path(__file__).parent
FOLDER = next(folder for folder in (_HERE / "recipes", _HERE.parent / "recipes") if folder.is_dir())
"""Of an installed package, or of a checkout."""


COMMANDS = {"evaluation": "evaluate"} | {name: name for name in ("grpo", "sft", "star", "prefixes", "backtracking")}
"""The command that runs the recipes of a folder."""


def recipe_names() -> list[str]:
    return sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))


def command_of(recipe: str) -> str | None:
    """
    The command that a recipe is for, by the folder that it is in.

    >>> command_of("recipes/evaluation/aime_2024.yaml"), command_of("mine.yaml")
    ('evaluate', None)
    """
    return COMMANDS.get(Path(recipe).parent.name)


def find_recipe(name: str) -> str:
    """
    The file that a name stands for: one of the working folder's if it is there, else a recipe of the package. A name
    may begin with `recipes/`, as in a checkout.

    Raises:
        [`~mrt_plugin.mistakes.Mistake`]: If it is neither; it names the nearest recipe.

    ```python
    >>> find_recipe("recipes/evaluation/aime_2024.yaml").endswith("evaluation/aime_2024.yaml")
    True
    >>> find_recipe("evaluation/aime_2042.yaml")
    Traceback (most recent call last):
        ...
    mrt_plugin.mistakes.Mistake: there is no such file or recipe. Did you mean ...

    ```
    """
    if Path(name).is_file():
        return name
    known = recipe_names()
    if (short := name.removeprefix("recipes/")) in known:
        return str(FOLDER / short)
    beside = [path.name for path in Path(name).parent.glob("*.y*ml")]
    nearest = did_you_mean(Path(name).name, beside) or did_you_mean(short, known)
    raise Mistake(
        f"there is no such file or recipe.{nearest} `mrt recipes` lists those of the package; tiny-cpu and "
        "smollm2 are in a checkout."
    )


def run(arguments: list[str] | None = None) -> None:
    """Lists the recipes, or prints one."""
    parser = argparse.ArgumentParser("mrt recipes", description="Lists the recipes of the package, or prints one.")
    parser.add_argument("recipe", nargs="?", metavar="NAME", help="the recipe to print")
    name = parser.parse_args(arguments).recipe
    if name:
        with named_by(name):
            print(Path(find_recipe(name)).read_text(encoding="utf-8"), end="")
        return
    for name in recipe_names():
        command = command_of(name)
        print(f"mrt {command} --config {name}" if command else f"--accelerate_config {name}")
    print(f"\nThey are in {FOLDER}; README.md there says what each is for.")
    print("mrt recipes NAME > mine.yaml copies one, to be changed.")
