"""The study's task `revise`, easy, as conversations for SmolLM2: problems, and traces for its warm start.

    python recipes/smollm2/revise.py --output runs/smollm2

The model's chat template does not open a thinking, so the traces do.
"""

import argparse
import json
import random
from pathlib import Path

from study.tasks.revise import SETTINGS, draw_problems, make_problem, make_trace
from study.tasks.task import EOS


TRACES_PER_PROBLEM = 14


def main(output: Path, seed: int) -> None:
    rng, dials = random.Random(seed), SETTINGS["easy"]
    drawn = draw_problems(dials, rng)
    rows = {f"problems/{split}": list(map(make_problem, some)) for split, some in drawn.items()}
    rows["warm_start/train"] = []
    for one in drawn["train"]:
        prompt = [{"role": "user", "content": make_problem(one)["problem"]}]
        for _ in range(TRACES_PER_PROBLEM):
            trace = "<think>\n" + make_trace(one, dials, rng).removesuffix(EOS)
            rows["warm_start/train"].append(
                {"prompt": prompt, "completion": [{"role": "assistant", "content": trace}]}
            )
    for name, some in rows.items():
        path = output / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in some))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/smollm2"))
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
