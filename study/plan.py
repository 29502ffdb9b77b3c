"""
Which trainings, and in which order: study/README.md says why.

The list is declared; what depends on a choice that earlier trainings make joins it as soon as these are done.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from operator import itemgetter

from .settings import BASELINE, BY_EPISODE, CHOSEN, EVERY, ONLINE, RIVAL, TASKS, VARIANTS, Setting, varied


RATES = (4e-4, 8e-4, 1.6e-3)
AGAIN = ((8e-4, "cosine"), (4e-4, "cosine"))  # the best two of the search of MRT dense when it interpolated J
HARD, EASY, UNEVEN = "revise-hard", "revise-easy", "revise-uneven"
MAIN = (BASELINE, CHOSEN, RIVAL)
CONTROLS = (
    "J of 4 samples",
    "progress shuffled",
    "progress scalar",
    "progress centred",
    "likelihood as outcome",
    "return to go",
    "return to go, baseline",
)
SCALED, SCALES = "GRPO, rewards scaled", ("length penalty 0.05", "length penalty 0.2", "length penalty 0.4")
ATTEMPTS = ("revise-hard-4", "revise-hard-14")
OLD = {"search": 1e-4, "clues": 4e-4}  # learning rates of both methods, as the first study chose them
HALF = ("GRPO, bf16", "MRT dense, bf16", "MRT dense, 4 samples, bf16", "GRPO, bf16 weights", "MRT dense, bf16 weights")
ONLINE_HALF = tuple(f"{method}, bf16" for method in ONLINE)
FINER = ("GRPO, groups of 4", "MRT dense, groups of 4", "alpha 0.4", "alpha 1.6", "horizon 0.5", "horizon 2")
STAR = ("STaR, MRT, 16 samples", "STaR, outcome")

Choice = tuple[float, str]
Choices = dict[tuple[str, str], Choice]


def setting_of(record: dict) -> Setting:
    return Setting(*(record[name] for name in ("task", "method", "learning_rate", "schedule", "seed", "steps")))


def grid(task: str, method: str, chosen: Choices, regrets: dict[Choice, float]) -> list[Choice]:
    """
    The rates and schedules that a method chooses from, as far as the regrets of those that are done tell. The main
    methods search on `hard` (MRT dense has `AGAIN`), and have on other tasks what they chose there, or half that rate.
    Other methods have what MRT dense chose, or half; those of `ONLINE` have just what it chose.
    """
    if method in VARIANTS or method in ONLINE:
        return []  # it has the choice of another
    if task == HARD and method in MAIN:
        return list(AGAIN) if method == CHOSEN else searched(regrets)
    if (task in (EASY, UNEVEN) and method in MAIN) or task == HARD:
        known = chosen.get((HARD, method if method in MAIN else CHOSEN))
        return [known, (known[0] / 2, known[1])] if known else []
    return []


def searched(regrets: dict[Choice, float]) -> list[Choice]:
    """Constant rates, from the lowest until one does worse than the last; then decay at the best two of them."""
    tried: list[Choice] = []
    for rate in RATES:
        tried.append((rate, "constant"))
        if tried[-1] not in regrets:
            return tried
        if regrets[tried[-1]] > regrets[tried[-2:][0]]:
            break
    return tried + [(rate, "cosine") for rate, _ in sorted(tried, key=regrets.__getitem__)[:2]]


def choices(found: Iterable[dict]) -> Choices:
    """
    The rate and the schedule with the least regret on validation problems, at the budget of training, of seed 0; none
    with which a training of any seed collapsed.
    """
    found = list(found)
    regrets, which = swept(found), itemgetter("task", "method", "learning_rate", "schedule")
    collapsed = {which(record) for record in found if collapses(record)}
    chosen: Choices = {(task, method): (rate, "constant") for task, rate in OLD.items() for method in MAIN[:2]}
    for of_task in sorted(regrets, key=lambda of_task: (of_task[0] != HARD, of_task[1] not in MAIN)):
        some = grid(*of_task, chosen, regrets[of_task])
        if some and all(one in regrets[of_task] for one in some):
            steady = [one for one in some if (*of_task, *one) not in collapsed]
            chosen[of_task] = min(steady or some, key=regrets[of_task].__getitem__)
    if (HARD, CHOSEN) in chosen:
        chosen |= {(HARD, method): chosen[HARD, CHOSEN] for method in ONLINE}
    if all((HARD, method) in chosen for method in MAIN):
        chosen |= {(task, method): chosen[HARD, method] for task in ATTEMPTS for method in MAIN}
    return chosen


def collapses(record: dict) -> bool:
    """Whether a training ends with more regret on validation problems than after its first updates."""
    return record["validation"]["regret"][str(TASKS[record["task"]].budget)] > record["curve"].get("regret", [1.0])[0]


def swept(found: Iterable[dict]) -> dict[tuple[str, str], dict[Choice, float]]:
    """Regret on validation problems of what was trained with seed 0, of each task and method."""
    regrets: dict[tuple[str, str], dict[Choice, float]] = {}
    for record in found:
        if record["seed"] == 0 and record["steps"] == TASKS[record["task"]].steps:
            regret = record["validation"]["regret"][str(TASKS[record["task"]].budget)]
            of_method = regrets.setdefault((record["task"], record["method"]), {})
            of_method[record["learning_rate"], record["schedule"]] = regret
    return regrets


def plan(found: list[dict]) -> Iterator[Setting]:
    """The settings that are known by now, in order, with those that are done."""
    chosen, regrets = choices(found), swept(found)

    def sweep(task: str, methods: Iterable[str]) -> Iterator[Setting]:
        for method in methods:
            some = grid(task, method, chosen, regrets.get((task, method), {}))
            yield from (Setting(task, method, *one, 0, TASKS[task].steps) for one in some)

    def seeds(task: str, methods: Iterable[str], last: int, first: int = 1) -> Iterator[Setting]:
        for seed, method in product(range(first, last + 1), methods):
            if choice := chosen.get((task, varied(method))):
                yield Setting(task, method, *choice, seed, TASKS[task].steps)

    yield from sweep(HARD, MAIN)
    yield from seeds(HARD, MAIN, 3)
    yield from seeds(HARD, CONTROLS, 1)
    yield from seeds(HARD, (*HALF, *ONLINE, *ONLINE_HALF, SCALED), 1)
    for task in OLD:
        yield from seeds(task, (BASELINE, CHOSEN), 3)
    yield from seeds(HARD, CONTROLS, 3, first=2)
    for task in (UNEVEN, EASY):
        yield from sweep(task, MAIN)
        yield from seeds(task, MAIN, 3)
    yield from seeds(HARD, MAIN, 5, first=4)
    yield from seeds(HARD, SCALES, 3)
    yield from seeds(HARD, (SCALED,), 3, first=2)
    yield from at_equal_tokens(found, list(seeds(HARD, MAIN, 5)))
    for task in ATTEMPTS:
        yield from seeds(task, (BASELINE, CHOSEN), 3)
    # As far as time lasts.
    for methods, first in ((("MRT dense, length penalty",), 1), (ONLINE, 2), ((BY_EPISODE,), 1)):
        yield from sweep(HARD, methods)
        yield from seeds(HARD, methods, 3, first)
    yield from seeds(HARD, FINER, 3)
    yield from sweep(HARD, STAR)
    yield from seeds(HARD, STAR, 3)


def at_equal_tokens(found: list[dict], reported: list[Setting]) -> Iterator[Setting]:
    """
    The baseline and the rival once more, with the updates that MRT's tokens would buy them, written and scored ones,
    where these are more.
    """
    spent: dict[str, list[int]] = {}
    for record in found:
        if setting_of(record) in reported:
            spent.setdefault(record["method"], []).append(record["curve"]["drawn"][-1] + record["curve"]["scored"][-1])
    if sum(map(len, spent.values())) < len(reported) or not reported:
        return
    for setting in reported:
        bought = TASKS[HARD].steps * sum(spent[CHOSEN]) / sum(spent[setting.method])
        if setting.method != CHOSEN and bought >= TASKS[HARD].steps + EVERY:
            steps = round(bought / EVERY) * EVERY
            yield Setting(HARD, setting.method, setting.learning_rate, setting.schedule, setting.seed, steps)
