"""Grading: answers per second and verdicts by class, beside the rewards of TRL and, in its environment, Open-R1."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from mrt_plugin import grading
from mrt_plugin.grading import Verdict, grade


sys.path.append(str(Path(__file__).parents[1]))
from grading_cases import CLASSES, TEXTS  # noqa: E402 (what the tests check, too)


GROUPS, GROUP = 250, 8
GOAL = 20  # times the answers per second
HOSTILE = ["(" * 500 + "1" + ")" * 500, "\\sqrt{" * 200 + "2" + "}" * 200, "10!!!", "(x+y+z)^{400}"]
"""Answers that take long; none on which the peers hang for ever, as on towers of powers."""

OPEN_R1 = Path(".venv-open-r1/bin/python")


def problem(generator: random.Random) -> tuple[str, list[str]]:
    """A gold answer, and what a group draws its answers from: the gold twice, the same in other words, wrong ones."""
    a, b, c = generator.randint(2, 30), generator.randint(2, 30), generator.randint(31, 60)
    kinds = [
        (f"{a}", [f"{a}.0", f"{b + c}"]),
        (f"\\frac{{{a}}}{{{c}}}", [f"{a}/{c}", f"\\frac{{{b}}}{{{c}}}"]),
        (f"\\{{{a},{c}\\}}", [f"\\{{{c}, {a}\\}}", f"\\{{{b}\\}}"]),
        (f"[{a},{c})", [f"({a}, {c})", f"[{a},{c}]"]),
        (f"{a}x^2+{b}", [f"{b}+{a}x^2", f"{a}x^2+{c}"]),
        (f"{a}\\sqrt{{{b}}}", [f"\\sqrt{{{a * a * b}}}", f"{c}"]),
    ]
    gold, others = generator.choices(kinds, [6, 2, 1, 1, 2, 2])[0]
    return gold, [gold, gold, *others]


def batch(seed: int, hostile: bool) -> tuple[list[str], list[str]]:
    """2,000 completions as GRPO grades them: groups that repeat answers, some without any, perhaps some hostile."""
    generator = random.Random(seed)
    answers, golds = [], []
    for _ in range(GROUPS):
        gold, pool = problem(generator)
        texts = [*(f"So it is \\boxed{{{answer}}}." for answer in pool), "I do not know."]
        answers += [f"Let me see.\n</think>\n\n{generator.choice(texts)}" for _ in range(GROUP)]
        golds += [f"${gold}$"] * GROUP
    if hostile:
        for index, answer in zip(generator.sample(range(len(answers)), len(HOSTILE)), HOSTILE, strict=True):
            answers[index] = f"</think>\n\n\\boxed{{{answer}}}"
    return answers, golds


def peers() -> dict[str, Callable[[list[str], list[str]], list[float | None]]]:
    found = {}
    for module in ("trl.rewards", "open_r1.rewards"):
        with suppress(ImportError, AttributeError):  # Open-R1 may not be there, and trl 0.18 has no such reward
            found[f"{module}.accuracy_reward"] = import_module(module).accuracy_reward
    return {
        name: lambda answers, golds, reward=reward: reward([[{"content": text}] for text in answers], golds)
        for name, reward in found.items()
    }


def seconds(work: Callable) -> tuple[float, list]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def measure(seed: int, hostile: bool) -> list[dict]:
    answers, golds = batch(seed, hostile)
    grading._verdicts.clear()  # those of another batch
    ours, verdicts = seconds(lambda: grade(answers, golds))
    rows = [{"what": "mrt_plugin.grading.grade", "seconds": ours, "answers per second": len(answers) / ours}]
    for name, reward in peers().items():
        taken, values = seconds(lambda reward=reward: reward(answers, golds))
        decided = [(o, v) for o, v in zip(verdicts, values, strict=True) if o is not Verdict.TIMED_OUT]
        rows.append(
            {
                "what": name,
                "seconds": taken,
                "answers per second": len(answers) / taken,
                "times slower": taken / ours,
                "goal": GOAL,
                "other verdicts": sum((o is Verdict.RIGHT) != bool(v) for o, v in decided),
            }
        )
    return rows


def agreement(classes: dict[str, list[tuple[str, str, bool]]]) -> list[dict]:
    """For each class: how many verdicts are as they should be, ours and the peers', and how many of theirs differ."""
    rows = []
    for name, cases in classes.items():
        answers, golds, right = (list(column) for column in zip(*cases, strict=True))
        ours = [verdict is Verdict.RIGHT for verdict in grade(answers, golds)]
        row = {"class": name, "cases": len(cases), "ours as they should be": sum(map(bool.__eq__, ours, right))}
        for peer, reward in peers().items():
            theirs = [bool(value) for value in reward(answers, golds)]
            row[f"{peer} as they should be"] = sum(map(bool.__eq__, theirs, right))
            row["too strict"] = sum(r and not t for t, r in zip(theirs, right, strict=True))
            row["too lenient"] = sum(t and not r for t, r in zip(theirs, right, strict=True))
        rows.append(row)
    return rows


def classes() -> dict[str, list[tuple[str, str, bool]]]:
    boxed = {name: [(rf"\boxed{{{answer}}}", *rest) for answer, *rest in cases] for name, cases in CLASSES.items()}
    everyday = [(text, gold) for text, gold in zip(*batch(seed=2, hostile=False), strict=True)]
    verdicts = grade(*zip(*everyday, strict=True))
    known = [(*pair, verdict is Verdict.RIGHT) for pair, verdict in zip(everyday, verdicts, strict=True)]
    return {"None: everyday answers": known, "The last box": TEXTS, **boxed}


def tables() -> dict[str, list[dict]]:
    start_up, _ = seconds(lambda: grade(["\\boxed{x+1}"], ["$x$"]))
    plain, hostile = measure(seed=1, hostile=False), measure(seed=0, hostile=True)
    plain.append({"what": "start-up of our processes", "seconds": start_up})
    return {
        "Grading 2,000 completions": plain,
        f"The same with {len(HOSTILE)} hostile answers": hostile,
        "Classes in which verdicts differ": agreement(classes()),
    }


def run() -> dict[str, list[dict]]:
    """Also with the versions that Open-R1 pins, and its reward, where it is installed."""
    found = tables()
    if not OPEN_R1.exists() or subprocess.run([OPEN_R1, "-c", "import open_r1"], capture_output=True).returncode:
        print("no open_r1 in .venv-open-r1: its reward is not measured")
        return found
    output = subprocess.run([OPEN_R1, __file__], check=True, capture_output=True, text=True).stdout
    return found | {f"{title}; Open-R1": rows for title, rows in json.loads(output.splitlines()[-1]).items()}


if __name__ == "__main__":
    print(json.dumps(tables()))
