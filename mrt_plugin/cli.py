r"""The `mrt` command: `mrt grpo ...` is `accelerate launch -m mrt_plugin.grpo ...`.

mrt grpo --config recipes/tiny-cpu/grpo/config_mrt.yaml
mrt grpo --accelerate_config accelerate.yaml --config recipe.yaml
mrt star --config recipes/tiny-cpu/star/data_mrt.yaml
mrt figures --runs runs/grpo runs/mrt
mrt view runs/grpo runs/mrt
mrt recipes
"""

import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from . import __version__
from .shipped import find_recipe


TRAINING = {"grpo": "train with GRPO or MRT", "sft": "fine-tune on demonstrations or on STaR rows"}
OTHERS = {
    "star": ("data.star", "build STaR rows for sft"),
    "prefixes": ("data.prefixes", "build prefixes for grpo"),
    "backtracking": ("data.backtracking", "build rows of backtracking search"),
    "evaluate": ("analysis.evaluate", "measure a model on a benchmark"),
    "compare": ("analysis.compare", "tell what one run gains over another, and whether it is noise"),
    "figures": ("analysis.report", "draw runs beside each other, and write a report"),
    "view": ("analysis.view", "write a page to read rollouts in, with what each of their episodes earned"),
    "recipes": ("shipped", "list the recipes that come with the package, or print one"),
}
VERSIONS = ("trl", "transformers", "accelerate", "datasets", "math-verify", "torch", "vllm", "peft", "deepspeed")
"""Packages that a report of a fault should tell the versions of."""


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"mrt_plugin {__version__}", f"Python {platform.python_version()}", *installed(VERSIONS), sep=", ")
        return
    if not arguments or arguments[0] not in TRAINING | OTHERS:
        commands = TRAINING | {name: what for name, (_, what) in OTHERS.items()}
        lines = [f"  {name:13} {what}" for name, what in commands.items()]
        print("usage: mrt COMMAND [--accelerate_config FILE] --config RECIPE [--field value ...]\n", *lines, sep="\n")
        print("\n`mrt COMMAND --help` lists the fields; --accelerate_config is for grpo and sft.")
        print("`mrt --version` tells all versions that matter.")
        sys.exit(arguments[:1] not in ([], ["-h"], ["--help"]))
    command, *arguments = arguments
    if command in OTHERS:
        import_module(f"mrt_plugin.{OTHERS[command][0]}").run(arguments)
        return
    if {"-h", "--help"} & set(arguments):
        import_module(f"mrt_plugin.{command}").run(arguments)
        return
    from accelerate.commands.launch import launch_command, launch_command_parser

    accelerate = []
    if "--accelerate_config" in arguments:
        position = arguments.index("--accelerate_config")
        accelerate = ["--config_file", *map(find_recipe, arguments[position + 1 : position + 2])]
        del arguments[position : position + 2]
    launch_command(launch_command_parser().parse_args([*accelerate, "-m", f"mrt_plugin.{command}", *arguments]))


def installed(packages: Iterable[str]) -> Iterator[str]:
    """Those of the packages that are installed, with their versions."""
    for package in packages:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


if __name__ == "__main__":
    main()
