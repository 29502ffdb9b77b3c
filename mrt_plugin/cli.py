r"""The `mrt` command: `mrt grpo ...` is `accelerate launch -m mrt_plugin.grpo ...`.

mrt grpo --config recipes/tiny-cpu/grpo/config_mrt.yaml
mrt grpo --accelerate_config accelerate.yaml --config recipe.yaml
mrt star --config recipes/tiny-cpu/star/data_mrt.yaml
mrt figures --runs runs/grpo runs/mrt
mrt view runs/grpo runs/mrt
"""

import sys
from importlib import import_module


TRAINING = {"grpo": "train with GRPO or MRT", "sft": "fine-tune on demonstrations or on STaR rows"}
OTHERS = {
    "star": ("data.star", "build STaR rows for sft"),
    "prefixes": ("data.prefixes", "build prefixes for grpo"),
    "backtracking": ("data.backtracking", "build rows of backtracking search"),
    "evaluate": ("analysis.evaluate", "measure a model on a benchmark"),
    "compare": ("analysis.compare", "tell what one run gains over another, and whether it is noise"),
    "figures": ("analysis.report", "draw runs beside each other, and write a report"),
    "view": ("analysis.view", "write a page to read rollouts in, with what each of their episodes earned"),
}


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in TRAINING | OTHERS:
        commands = TRAINING | {name: what for name, (_, what) in OTHERS.items()}
        lines = [f"  {name:13} {what}" for name, what in commands.items()]
        print("usage: mrt COMMAND [--accelerate_config FILE] --config RECIPE [--field value ...]\n", *lines, sep="\n")
        print("\n`mrt COMMAND --help` lists the fields; --accelerate_config is for grpo and sft.")
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
        accelerate = ["--config_file", *arguments[position + 1 : position + 2]]
        del arguments[position : position + 2]
    launch_command(launch_command_parser().parse_args([*accelerate, "-m", f"mrt_plugin.{command}", *arguments]))


if __name__ == "__main__":
    main()
