"""
A second task, of another structure than search.py: evidence adds up, and a slip can be mended.

    python -m study.tasks.clues --output runs/clues

A problem names two to five sums modulo 7 and asks of each whether it is odd (1) or even (2); the answer is a digit for
each. The short ones help the model to learn the sums at all: with four sums in all problems, it did not.
An episode works out one sum: the sum itself, its two steps, and the digit. Each right digit doubles the chance of the
answer, so that success rises by degrees, where it jumps in search.py; a sum that was got wrong takes the chance
away, and working it out again can bring it back.

The traces are mediocre on purpose: they work sums out that they have already (`REPEAT`, `IDLE`), make slips, and give
up early and guess what is missing. What is written under `--output` is listed in task.py.
"""

import argparse
import random
from pathlib import Path

from .task import CUES, EOS, FINAL_ANSWER, write_task


NAMES = "ABCDE"
FEWEST = 2  # sums of a problem
TERMS = 3  # of each sum; with two, the answer could be learned by heart
MODULUS = 7
PROBLEMS = {"train": 400, "validation": 50, "test": 100}
TRACES_PER_PROBLEM = 20

SLIP = 0.15  # a sum is got wrong, so that its digit is
REPEAT = 0.3  # an episode works out a sum that is known, while others are not
GIVE_UP = 0.12  # a trace stops thinking before it knows all sums
IDLE = 0.5  # with all sums known, a trace works one of them out again
MAX_EPISODES = 9

Sums = dict[str, list[int]]


def make_sums(rng: random.Random) -> Sums:
    names = NAMES[: rng.randint(FEWEST, len(NAMES))]
    return {name: [rng.randrange(MODULUS) for _ in range(TERMS)] for name in names}


def digit(total: int) -> str:
    return "1" if total % 2 else "2"


def make_problem(sums: Sums) -> dict:
    """One row of `problems`."""
    listed = ", ".join(f"{name}={'+'.join(map(str, terms))}" for name, terms in sums.items())
    solution = "".join(digit(sum(terms) % MODULUS) for terms in sums.values())
    return {"problem": f"Given {listed} (mod {MODULUS}): 1 if odd, 2 if even.", "solution": solution}


def make_episode(opening: str, name: str, terms: list[int], slips: bool, rng: random.Random) -> tuple[str, str]:
    """The text of an episode, and the digit that it comes to."""
    first, second, third = terms
    partial = (first + second) % MODULUS
    total = (partial + third) % MODULUS
    if slips:
        total = rng.choice([other for other in range(MODULUS) if digit(other) != digit(total)])
    steps = f"{first}+{second}={partial}, {partial}+{third}={total}."
    return f"{opening} {name}={first}+{second}+{third}.\n\n{steps}\n\nSo {name}: {digit(total)}.", digit(total)


def make_trace(sums: Sums, rng: random.Random) -> str:
    """One warm-start completion: sums in random order, then an answer of the digits found last."""
    episodes, found = [], {}
    while len(episodes) < MAX_EPISODES:
        missing = [name for name in sums if name not in found]
        if rng.random() < (GIVE_UP if missing else 1 - IDLE):
            break
        again = found and (not missing or rng.random() < REPEAT)
        name = rng.choice(list(found) if again else missing)
        opening = f"{rng.choice(CUES)} take" if episodes else "Let me take"
        text, found[name] = make_episode(opening, name, sums[name], rng.random() < SLIP, rng)
        episodes.append(text)
    answer = "".join(found.get(name) or rng.choice("12") for name in sums)
    return "\n\n".join(episodes) + FINAL_ANSWER + f"{answer}}}" + EOS


def main(output: Path, seed: int) -> None:
    rng = random.Random(seed)
    sums = {split: [make_sums(rng) for _ in range(count)] for split, count in PROBLEMS.items()}
    write_task(output, seed, rng, sums, make_problem, make_trace, TRACES_PER_PROBLEM)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/clues"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.output, arguments.seed)
