"""Grading: answers per second and verdicts, beside the accuracy rewards of TRL and, if it is there, of Open-R1."""

import random
import time
from collections.abc import Callable
from importlib.util import find_spec

from trl import rewards

from mrt_plugin.grading import Outcome, grade


GROUPS, GROUP = 250, 8
GOAL = 20  # times the answers per second
HOSTILE = ["(" * 500 + "1" + ")" * 500, "\\sqrt{" * 200 + "2" + "}" * 200, "10!!!", "(x+y+z)^{400}"]
"""Answers that take long; none on which the peers hang for ever, as on towers of powers."""


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


def batch(seed: int = 0) -> tuple[list[str], list[str]]:
    """2,000 completions as GRPO grades them: groups that repeat answers, some without any, and a few hostile ones."""
    generator = random.Random(seed)
    answers, golds = [], []
    for _ in range(GROUPS):
        gold, pool = problem(generator)
        texts = [*(f"So it is \\boxed{{{answer}}}." for answer in pool), "I do not know."]
        answers += [f"Let me see.\n</think>\n\n{generator.choice(texts)}" for _ in range(GROUP)]
        golds += [f"${gold}$"] * GROUP
    for index, hostile in zip(generator.sample(range(len(answers)), len(HOSTILE)), HOSTILE, strict=True):
        answers[index] = f"</think>\n\n\\boxed{{{hostile}}}"
    return answers, golds


def peers() -> dict[str, Callable[[list[str], list[str]], list[float | None]]]:
    found = {"trl.rewards.accuracy_reward": rewards.accuracy_reward}
    if find_spec("open_r1"):
        from open_r1.rewards import accuracy_reward

        found["open_r1.rewards.accuracy_reward"] = accuracy_reward
    return {
        name: lambda answers, golds, reward=reward: reward([[{"content": text}] for text in answers], golds)
        for name, reward in found.items()
    }


def seconds(work: Callable) -> tuple[float, list]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def run() -> list[dict]:
    answers, golds = batch()
    start_up, _ = seconds(lambda: grade(["\\boxed{x+1}"], ["$x$"]))
    ours, outcomes = seconds(lambda: grade(answers, golds))
    again, _ = seconds(lambda: grade(*batch(seed=1)))
    rows = [
        {"what": "mrt_plugin.grading.grade", "seconds": ours, "answers per second": len(answers) / ours},
        {"what": "the same, other problems", "seconds": again, "answers per second": len(answers) / again},
        {"what": "start-up of its processes", "seconds": start_up},
    ]
    for name, reward in peers().items():
        taken, values = seconds(lambda reward=reward: reward(answers, golds))
        decided = [(o, v) for o, v in zip(outcomes, values, strict=True) if o is not Outcome.TIMED_OUT]
        rows.append(
            {
                "what": name,
                "seconds": taken,
                "answers per second": len(answers) / taken,
                "times slower": taken / ours,
                "goal": GOAL,
                "other verdicts": sum((o is Outcome.RIGHT) != bool(v) for o, v in decided),
            }
        )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
