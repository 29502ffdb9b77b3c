"""How the cost of measuring a step grows with the length of traces, their episodes, the branches and the group."""

import os
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from branching import random_model, requests


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
    figure, panels = plt.subplots(1, len(RANGES), figsize=(11, 2.8), sharey=True, layout="constrained")
    for axes, (name, values) in zip(panels, RANGES.items(), strict=True):
        times = [seconds(sampler, **BASE | {name: value}) for value in values]
        exponent = float(np.polyfit(np.log(values), np.log(times), 1)[0])
        measured = {f"seconds at {value / BASE[name]:g}x": taken for value, taken in zip(values, times, strict=True)}
        rows.append({"what": name, "at 1x": BASE[name], **measured, "exponent": exponent})
        axes.loglog(values, times, "o-", color="#D55E00")
        axes.set(xlabel=name.replace("_", " "), title=f"exponent {exponent:.2f}", xticks=values, xticklabels=values)
        axes.minorticks_off()
    panels[0].set(ylabel="seconds", yticks=[5, 10, 20, 40], yticklabels=[5, 10, 20, 40])
    figure.savefig(output / "scaling.png", dpi=160)
    return rows
