r"""Runs somebody's training script, unchanged, with MRT in it.

    accelerate launch -m mrt_plugin.run src/open_r1/grpo.py --config RECIPE --reward_funcs accuracy mrt_progress

That is [`~mrt_plugin.register`] and then the script, as `python SCRIPT` runs it: Open-R1's or a fork's `grpo.py`, or
TRL's own `trl/scripts/grpo.py`, where our rewards go by their dotted paths (`mrt_plugin.rewards.mrt_progress`).
"""

import runpy
import sys
from pathlib import Path

from .registration import register


def main() -> None:
    del sys.argv[0]
    if not sys.argv or not Path(sys.argv[0]).is_file():
        missing = "".join(f"; there is no file {script}" for script in sys.argv[:1])
        sys.exit(f"usage: accelerate launch -m mrt_plugin.run SCRIPT [--config RECIPE] [--field value ...]{missing}")
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    register()
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
