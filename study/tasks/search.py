"""
The first task: a search, in which the attempt that happens to find the value earns almost all.

    python -m study.tasks.search --output runs/search

A problem asks for the x with a*x + b + c = 0 (mod 7), and is solved by trying values. One attempt is one episode of
three paragraphs: the value, its product with a, and the sums, which end in 0 if and only if the value is right. The
products and sums modulo 7 are small tables, which a tiny model learns in two minutes. It is shown no way to the answer
other than trying: in the traces, neither the values tried nor the guesses make use of the solution. The traces search
badly on purpose, in ways that reinforcement learning can unlearn: at times they go on to the next value, but mostly to
any, which may have failed already; they check the solution again after it was found; they give up and guess. The rates
are the constants below.

What is written under `--output` is listed in task.py; with `--validation 50`, that many more problems are kept from
training, in `problems/validation.jsonl`.

Left out: any trace of a test problem. A test problem is new as a text only: its twin with b and c exchanged may be
among the training problems.
"""

import argparse
import random
from itertools import product
from pathlib import Path

from .task import CUES, EOS, FINAL_ANSWER, write_task


MODULUS = 7  # prime, so that every problem has exactly one solution
TEST_PROBLEMS = 94  # of 294; the rest is for training
TRACES_PER_PROBLEM = 40

ORDERLY = 0.4  # an attempt takes the value after the last one, and not just any
GIVE_UP = 0.12  # a trace stops thinking after a failed attempt, or before the first one
MAX_ATTEMPTS = 8  # keeps the rows of a batch of similar length
IDLE = 0.5  # a solved trace checks the solution once more, and then once more, ...

Coefficients = tuple[int, int, int]  # a, b and c; a is not a multiple of MODULUS


def make_problem(coefficients: Coefficients) -> dict:
    """One row of `problems`."""
    a, b, c = coefficients
    problem = f"Find x with {a}*x+{b}+{c}=0 (mod {MODULUS})."
    solution = next(x for x in range(MODULUS) if (a * x + b + c) % MODULUS == 0)
    return {"problem": problem, "solution": str(solution)}


def make_attempt(opening: str, x: int, a: int, b: int, c: int) -> str:
    """One episode: three paragraphs, which is the least that the segmentation rule accepts as an episode."""
    multiple = a * x % MODULUS
    partial = (multiple + b) % MODULUS
    total = (partial + c) % MODULUS
    verdict = "no" if total else "yes"
    return f"{opening} x={x}.\n\n{a}*{x}={multiple}.\n\n{multiple}+{b}={partial}, {partial}+{c}={total} ({verdict})."


def make_trace(coefficients: Coefficients, rng: random.Random) -> str:
    """One warm-start completion: a mediocre search, then the value it found, or else the one it would try next."""
    a, b, c = coefficients
    attempts, x, found = [], rng.randrange(MODULUS), None
    while found is None and len(attempts) < MAX_ATTEMPTS and rng.random() >= GIVE_UP:
        opening = f"{rng.choice(CUES)} try" if attempts else "Let me try"
        attempts.append(make_attempt(opening, x, a, b, c))
        if (a * x + b + c) % MODULUS == 0:
            found = x
        x = (x + 1) % MODULUS if rng.random() < ORDERLY else rng.randrange(MODULUS)
    while found is not None and len(attempts) < MAX_ATTEMPTS and rng.random() < IDLE:
        attempts.append(make_attempt(f"{rng.choice(CUES)} check again", found, a, b, c))
    answer = x if found is None else found
    return "\n\n".join(attempts) + FINAL_ANSWER + f"{answer}}}" + EOS


def main(output: Path, seed: int, validation: int) -> None:
    rng = random.Random(seed)
    coefficients = list(product(range(1, MODULUS), range(MODULUS), range(MODULUS)))
    rng.shuffle(coefficients)
    test, coefficients = coefficients[:TEST_PROBLEMS], coefficients[TEST_PROBLEMS:]
    held_out, train = coefficients[:validation], coefficients[validation:]
    splits = {"train": train, "test": test} | ({"validation": held_out} if validation else {})
    write_task(output, seed, rng, splits, make_problem, make_trace, TRACES_PER_PROBLEM)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/search"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", type=int, default=0, help="problems to keep from training for another split")
    arguments = parser.parse_args()
    main(arguments.output, arguments.seed, arguments.validation)
