"""
How often a policy denies its own right results on `revise`, and what that earns: of rollouts that a training kept.

    python -m study.denials runs/denial              # a training with mrt_keep_rollouts
    python -m study.denials runs/denial --until 30   # its first 30 updates

A check that comes out at 0 holds, so a "no" behind it denies a right result. What "yes" and "no" earn is their
advantage less that of the rollout's last token, which is the outcome's; rollouts that were cut have no such token.
"""

import argparse
import re
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

from mrt_plugin.analysis.runs import markdown
from mrt_plugin.analysis.view import load


VERDICT = re.compile(r"=(\d) \((yes|no)\)")


def verdicts(row: dict, tokenizer) -> list[tuple[bool, str, float]]:
    """Of each check of a rollout: whether it holds, what the rollout says of it, and what that word earns."""
    spans = tokenizer(row["completion"], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ends, outcome = np.array([end for _, end in spans]), row["advantages"][-1]
    found = []
    for check in VERDICT.finditer(row["completion"]):
        token = int(np.searchsorted(ends, check.start(2), side="right"))
        earns = row["advantages"][token] - outcome if row["ended"] else np.nan
        found.append((check[1] == "0", check[2], earns))
    return found


def summary(name: str, rows: list[dict], tokenizer) -> dict:
    found = [one for row in rows for one in verdicts(row, tokenizer)]
    held = [word == "no" for holds, word, _ in found if holds]
    line = {"update": name, "tokens of a rollout": f"{np.mean([row['tokens'] for row in rows]):.0f}"}
    line |= {"checks that hold": f"{len(held)}", "of them denied": f"{np.mean(held):.3f}" if held else ""}
    for word in ("yes", "no"):
        earned = [earns for _, said, earns in found if said == word and not np.isnan(earns)]
        line[f'"{word}" earns'] = f"{np.mean(earned):.2f}" if earned else ""
    return line


def main(folder: Path, until: int | None) -> None:
    [run] = load([folder])
    rows = [row for group in run.problems.values() for row in group if not until or row["step"] <= until]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    steps = sorted({row["step"] for row in rows})
    table = [summary(str(step), [row for row in rows if row["step"] == step], tokenizer) for step in steps]
    print(markdown([*table, summary("all", rows, tokenizer)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--until", type=int, help="the last update to look at")
    main(**vars(parser.parse_args()))
