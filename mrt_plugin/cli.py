r"""The `mrt` command: `mrt grpo ...` is `accelerate launch -m mrt_plugin.grpo ...`.

mrt grpo --config recipes/tiny-cpu/grpo/config_mrt.yaml
mrt grpo --accelerate_config accelerate.yaml --config recipe.yaml
mrt star --config recipes/tiny-cpu/star/data_mrt.yaml
mrt figures --runs runs/grpo runs/mrt
mrt view runs/grpo runs/mrt
mrt recipes
"""

import argparse
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from subprocess import CalledProcessError

from . import __version__
from .mistakes import TOLD, Mistake, as_command, did_you_mean, named_by, tell
from .shipped import find_recipe


TRAINING = {"grpo": "train with GRPO or MRT", "sft": "fine-tune on demonstrations or on STaR rows"}
OTHERS = {
    "star": ("data.star", "build STaR rows for sft"),
    "prefixes": ("data.prefixes", "build prefixes for grpo"),
    "backtracking": ("data.backtracking", "build rows of backtracking search"),
    "evaluate": ("analysis.evaluate", "measure a model on a benchmark"),
    "compare": ("analysis.compare", "compare two runs: what the second gains, with intervals"),
    "figures": ("analysis.report", "draw runs beside each other, and write a report"),
    "view": ("analysis.view", "write a page to read rollouts in, with what each of their episodes earned"),
    "recipes": ("shipped", "list the recipes that come with the package, or print one"),
}
VERSIONS = ("trl", "transformers", "accelerate", "datasets", "math-verify", "torch", "vllm", "peft", "deepspeed")
"""Packages that a report of a fault should tell the versions of."""


def main() -> None:
    command, *arguments = sys.argv[1:] or ["--help"]
    if command == "--version":
        print(f"mrt_plugin {__version__}", f"Python {platform.python_version()}", *installed(VERSIONS), sep=", ")
        return
    if command in ("-h", "--help"):
        commands = TRAINING | {name: what for name, (_, what) in OTHERS.items()}
        lines = [f"  {name:13} {what}" for name, what in commands.items()]
        print("usage: mrt COMMAND [--accelerate_config FILE] --config RECIPE [--field value ...]\n", *lines, sep="\n")
        print("\n`mrt COMMAND --help` lists the fields; --accelerate_config is for grpo and sft.")
        print("`mrt --version` prints the installed versions, for reports of faults.")
        print("A mistake in a recipe is reported in one sentence; MRT_DEBUG=1 shows the traceback too.")
        return
    as_command(command, partial(run, command, arguments))


def run(command: str, arguments: list[str]) -> None:
    """Runs a command with its arguments."""
    if command in OTHERS:
        import_module(f"mrt_plugin.{OTHERS[command][0]}").run(arguments)
    elif command not in TRAINING:
        known = [*TRAINING, *OTHERS]
        raise Mistake(f"no such command.{did_you_mean(command, known)} Known: {', '.join(known)}.")
    elif {"-h", "--help"} & set(arguments):
        import_module(f"mrt_plugin.{command}").run(arguments)
    else:
        launch(command, arguments)


def launch(command: str, arguments: list[str]) -> None:
    """Runs a training as accelerate does, without its list of defaults, and without its word on a run that failed."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parser = argparse.ArgumentParser(f"mrt {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("--accelerate_config")
    chosen, arguments = parser.parse_known_args(arguments)
    options = []
    if chosen.accelerate_config is not None:
        with named_by(f"--accelerate_config {chosen.accelerate_config}"):
            options = ["--config_file", find_recipe(chosen.accelerate_config)]
    logger = logging.getLogger("accelerate.commands.launch")
    logger.addFilter(lambda record: "had defaults used instead" not in str(record.msg))
    with tempfile.NamedTemporaryFile("r") as told:
        os.environ[TOLD] = told.name
        try:
            launch_command(launch_command_parser().parse_args([*options, "-m", f"mrt_plugin.{command}", *arguments]))
            return
        except (CalledProcessError, ChildFailedError) as error:
            code = getattr(error, "returncode", 1)
        finally:
            del os.environ[TOLD]
        if said := Path(told.name).read_text():
            tell(said)
        sys.exit(code)  # its traceback stands above


def installed(packages: Iterable[str]) -> Iterator[str]:
    """Those of the packages that are installed, with their versions."""
    for package in packages:
        with suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"


if __name__ == "__main__":
    main()
