"""
A third task: the model gets there in the end, by attempts that it checks and makes again, and wastes tokens by that.

    python -m study.tasks.revise hard --output runs/hard

A problem asks for the x with a*x + b + c + d = 0 (mod 7). An attempt is one episode of three paragraphs: an opening;
four small results, one after the other (b+c, +d, the negative of that, which is a*x, and x); and a check by
substitution, which ends in yes or no. In the traces each result is wrong with probability `slip`, and what follows is
right for what stands there; the check never is wrong. After a no the trace attempts again, or gives up and guesses;
after a yes it answers, or idly checks once more. So almost every trace can end well, and slips decide how soon.

Neither results nor guesses make use of the solution: a slip is any other digit, a guess is any digit. The settings
differ in the dials; in `uneven` also problems do, whose attempts are longer and less often right, the more terms.

What is written is listed in task.py. Left out: traces that check wrongly, or use what an earlier attempt got.
"""

import argparse
import random
from dataclasses import dataclass, replace
from pathlib import Path

from .task import CUES, EOS, FINAL_ANSWER, write_task


MODULUS = 7  # prime, so that every problem has exactly one solution
PROBLEMS = {"train": 600, "validation": 60, "test": 120}
TRACES_PER_PROBLEM = 14


@dataclass(frozen=True)
class Dials:
    """
    How well the traces solve.

    Args:
        slip (`float`):
            Chance that a result is wrong.
        give_up (`float`):
            Chance that a trace guesses after an attempt that failed.
        idle (`float`):
            Chance that a trace checks once more what has been found.
        attempts (`int`):
            Most episodes of a trace.
        terms (`tuple[int, int]`):
            Fewest and most terms beside a*x.
    """

    slip: float
    give_up: float
    idle: float
    attempts: int
    terms: tuple[int, int] = (3, 3)


HARD = Dials(slip=0.3, give_up=0.04, idle=0.3, attempts=9)
SETTINGS = {
    "easy": Dials(slip=0.2, give_up=0.08, idle=0.4, attempts=6),
    "hard": HARD,
    "hard-4": replace(HARD, attempts=4),
    "hard-14": replace(HARD, attempts=14),
    "uneven": Dials(slip=0.2, give_up=0.03, idle=0.3, attempts=16, terms=(2, 6)),
}

Coefficients = tuple[int, ...]  # a, which is not a multiple of MODULUS, and the terms


def make_problem(coefficients: Coefficients) -> dict:
    """One row of `problems`."""
    a, *terms = coefficients
    solution = next(x for x in range(MODULUS) if (a * x + sum(terms)) % MODULUS == 0)
    return {"problem": f"Find x with {equation(a, terms)} (mod {MODULUS}).", "solution": str(solution)}


def equation(a: int, terms: list[int]) -> str:
    return f"{a}*x+{'+'.join(map(str, terms))}=0"


def make_attempt(opening: str, coefficients: Coefficients, slip: float, rng: random.Random) -> tuple[str, int, bool]:
    """The text of an episode, the x that it comes to, and whether that is right."""
    a, first, *terms = coefficients
    results, total = [], first
    for term in terms:
        before, total = total, slipping(total + term, slip, rng)
        results.append(f"{before}+{term}={total}")
    negative = slipping(-total, slip, rng)
    x = slipping(negative * pow(a, -1, MODULUS), slip, rng)
    checked, right = check(x, coefficients)
    return f"{opening}.\n\n{', '.join([*results, f'{a}*x={negative}', f'x={x}'])}.\n\n{checked}", x, right


def slipping(result: int, slip: float, rng: random.Random) -> int:
    """A result modulo 7, or another digit."""
    return (result + (rng.randrange(1, MODULUS) if rng.random() < slip else 0)) % MODULUS


def check(x: int, coefficients: Coefficients) -> tuple[str, bool]:
    """A paragraph that puts x into the equation, and whether it holds."""
    a, *terms = coefficients
    total = a * x % MODULUS
    steps = [f"{a}*{x}={total}"]
    for term in terms:
        before, total = total, (total + term) % MODULUS
        steps.append(f"{before}+{term}={total}")
    return f"{', '.join(steps)} ({'no' if total else 'yes'}).", total == 0


def make_trace(coefficients: Coefficients, dials: Dials, rng: random.Random) -> str:
    """One warm-start completion: attempts until one is found to be right, idle checks, an answer."""
    episodes, found = [], False
    while not found and len(episodes) < dials.attempts:
        opening = f"{rng.choice(CUES)} solve it again" if episodes else "Let me solve it"
        text, x, found = make_attempt(opening, coefficients, dials.slip, rng)
        episodes.append(text)
        if not found and rng.random() < dials.give_up:
            break
    while found and len(episodes) < dials.attempts and rng.random() < dials.idle:
        episodes.append(f"{rng.choice(CUES)} check it again.\n\nx={x}.\n\n{check(x, coefficients)[0]}")
    answer = x if found else rng.randrange(MODULUS)
    return "\n\n".join(episodes) + FINAL_ANSWER + f"{answer}}}" + EOS


def draw_problems(dials: Dials, rng: random.Random) -> dict[str, list[Coefficients]]:
    """Coefficients for each split; none is drawn twice."""
    drawn: dict[Coefficients, None] = {}
    while len(drawn) < sum(PROBLEMS.values()):
        terms = [rng.randrange(MODULUS) for _ in range(rng.randint(*dials.terms))]
        drawn[(rng.randrange(1, MODULUS), *terms)] = None
    left = iter(drawn)
    return {split: [next(left) for _ in range(count)] for split, count in PROBLEMS.items()}


def write(output: Path, seed: int, dials: Dials) -> None:
    rng = random.Random(seed)
    drawn = draw_problems(dials, rng)
    write_task(
        output, seed, rng, drawn, make_problem, lambda one, rng: make_trace(one, dials, rng), TRACES_PER_PROBLEM
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.output, arguments.seed, SETTINGS[arguments.setting])
