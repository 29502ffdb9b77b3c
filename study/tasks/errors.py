"""
How often completions of `revise` err: to see that the traces of a warm start err as the dials say, and its model too.

Every result is judged by what stands before it, so that one slip is one error, and a copied slip is none.
"""

import re
from collections import Counter
from collections.abc import Iterable

from mrt_plugin.episodes import episode_spans, thinking_span

from .revise import MODULUS


def error_rates(pairs: Iterable[tuple[str, str]], attempts: int) -> dict[str, float]:
    """
    Rates over completions, from pairs of a problem and a completion to it; the traces have at most so many attempts.

    Returns:
        `dict[str, float]`:
            `slip`: of the results of attempts, those that are wrong; `slip_<j>`: of the j-th result, the last being x;
            `check`: of checks, those with a wrong result, or a wrong verdict; `right`: of attempts, those that find x;
            `give_up`: of the times that an attempt had failed, those that thinking ended; `idle`: of the times that
            one had succeeded, those that it went on; `malformed`: of episodes, those that cannot be read.
    """
    seen, found = Counter(), Counter()

    def count(name: str, happened: bool) -> None:
        seen[name] += 1
        found[name] += happened

    for problem, completion in pairs:
        equation = re.search(r"(\d)\*x\+([\d+]+)=0", problem)
        a, terms = int(equation[1]), [int(term) for term in equation[2].split("+")]
        span = thinking_span(completion)
        thinking = completion[slice(*span)] if span else ""
        episodes = [thinking[start:end] for start, end in episode_spans(thinking)]
        for index, episode in enumerate(episodes):
            ended = index + 1 == len(episodes)
            paragraphs = episode.strip().split("\n\n")
            read = read_attempt(a, terms, paragraphs)
            if ended and "</think>" not in completion:
                continue  # cut
            count("malformed", read is None)
            if read is None:
                continue
            slips, misjudged, success = read
            for place, slip in enumerate(slips, len(terms) + 1 - len(slips)):
                count("slip", slip)
                count(f"slip_{place + 1}", slip)
            if slips:
                count("right", success)
            count("check", misjudged)
            if index + 1 < attempts:  # then the traces had the choice
                count("idle" if success else "give_up", ended != success)
    return {name: round(found[name] / seen[name], 4) for name in sorted(seen)}


def read_attempt(a: int, terms: list[int], paragraphs: list[str]) -> tuple[list[bool], bool, bool] | None:
    """
    Which results of an attempt are wrong (none has been made where it only checks again), whether the check is, and
    whether it says yes; `None` if it is no attempt at the problem.
    """
    if len(paragraphs) != 3:
        return None
    sums = "".join(rf"(\d)\+{term}=(\d), " for term in terms[1:])
    work = re.fullmatch(rf"{sums}{a}\*x=(\d), x=(\d)\.", paragraphs[1]) if paragraphs[1][:2] != "x=" else None
    found = re.search(r"\bx=(\d)\.$", paragraphs[1])
    steps = "".join(rf", (\d)\+{term}=(\d)" for term in terms)
    check = re.fullmatch(rf"{a}\*(\d)=(\d){steps} \((yes|no)\)\.", paragraphs[2])
    if not found or not check or (work is None and paragraphs[1][:2] != "x="):
        return None
    slips, total = [], terms[0]
    if work:
        *results, negative, x = map(int, work.groups())
        for term, before, result in zip(terms[1:], results[::2], results[1::2], strict=True):
            slips.append(before != total or (before + term - result) % MODULUS != 0)
            total = result
        slips += [(total + negative) % MODULUS != 0, (a * x - negative) % MODULUS != 0]
    value, *numbers, verdict = check.groups()
    numbers, total = list(map(int, numbers)), a * int(found[1])
    wrong = value != found[1] or (total - numbers[0]) % MODULUS != 0
    for term, before, result in zip(terms, numbers[1::2], numbers[2::2], strict=True):
        wrong |= (total - before) % MODULUS != 0 or (before + term - result) % MODULUS != 0
        total = result
    return slips, wrong or (verdict == "yes") != (total % MODULUS == 0), verdict == "yes"
