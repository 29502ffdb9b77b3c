"""How the cost of measuring a step grows with the length of traces, their episodes, the branches and the group."""

import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from branching import random_model, requests

from mrt_plugin.analysis.figures import COLORS, DASHES, MARKERS, STYLE


BASE = {"trace_tokens": 1000, "episodes": 6, "branches": 4, "rollouts": 2}
RANGES = {
    "trace_tokens": [500, 1000, 2000, 4000],
    "episodes": [3, 6, 12, 24],
    "branches": [2, 4, 8, 16],
    "rollouts": [1, 2, 4, 8],
}
NEW_TOKENS = 24


def seconds(sampler, trace_tokens: int, episodes: int, branches: int, rollouts: int) -> float:
    """Of the branches off some rollouts, each with `episodes` + 1 prefixes, evenly spaced."""
    prompts = []
    for _ in range(rollouts):
        some, settings = requests(trace_tokens, episodes + 1, branches, NEW_TOKENS)
        prompts += some
    begin = time.perf_counter()
    sampler.sample(prompts, branches, settings)
    return time.perf_counter() - begin


def run(output) -> list[dict]:
    """Also draws the figure `scaling.png`."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sampler = random_model()[1]
    seconds(sampler, **BASE)  # warm
    rows = []
    for name, values in RANGES.items():
        times = [seconds(sampler, **BASE | {name: value}) for value in values]
        exponent = float(np.polyfit(np.log(values), np.log(times), 1)[0])
        measured = {f"seconds at {value / BASE[name]:g}x": taken for value, taken in zip(values, times, strict=True)}
        rows.append({"what": name, "at 1x": BASE[name], **measured, "exponent": exponent})
    draw(rows, output)
    return rows


def draw(rows: list[dict], output) -> None:
    """Times of the base, against how many times a size is its base; in grey, what is proportional."""
    with plt.rc_context(STYLE | {"figure.figsize": (7.5, 3.4)}):
        figure, panels = plt.subplots(1, 2, sharey=True)
        factors = [0.5, 1, 2, 4]
        for axes, some in zip(panels, (rows[:2], rows[2:]), strict=True):
            axes.loglog(factors, factors, color="0.7", lw=1)
            axes.annotate("proportional", (2, 2), ha="right", va="bottom", color="0.5", fontsize="small")
            for row, color, dashes, marker in zip(some, COLORS[1:], DASHES[1:], MARKERS[1:], strict=False):
                times = [row[f"seconds at {factor:g}x"] / row["seconds at 1x"] for factor in factors]
                label = f"{row['what'].replace('_', ' ')}, {row['at 1x']} at 1x"
                axes.loglog(factors, times, color=color, linestyle=dashes, marker=marker, label=label)
            axes.set(xlabel="times its size", xticks=factors, xticklabels=[f"{factor:g}" for factor in factors])
            axes.minorticks_off()
            axes.legend(loc="upper left", fontsize="small")
        panels[0].set(ylabel="times the seconds", yticks=factors, yticklabels=[f"{factor:g}" for factor in factors])
        figure.savefig(output / "scaling.png")
        plt.close(figure)
