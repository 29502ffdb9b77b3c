r"""Open-R1's rewards of form, by its names, for where it is not installed. tests/upstream holds them to its own."""

import re

from ..rewards import completion_text


_FORMAT = re.compile(r"<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>$", re.DOTALL | re.MULTILINE)
_TAGS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")
_STEP = re.compile(r"Step \d+:|^\d+\.|\n-|\n\*|First,|Second,|Next,|Finally,")


def format_reward(completions: list, **kwargs) -> list[float]:
    """Whether the thinking stands in `<think>`, the answer behind it in `<answer>`, and each tag in its own line."""
    return [float(bool(_FORMAT.match(completion_text(completion)))) for completion in completions]


def tag_count_reward(completions: list, **kwargs) -> list[float]:
    """A quarter for each of these tags that occurs exactly once."""
    texts = map(completion_text, completions)
    return [sum(text.count(tag) == 1 for tag in _TAGS) / len(_TAGS) for text in texts]


def reasoning_steps_reward(completions: list, **kwargs) -> list[float]:
    """A third for each word or mark that opens a step, up to 1."""
    return [min(1.0, len(_STEP.findall(completion_text(completion))) / 3) for completion in completions]


FORM = {"format": format_reward, "tag_count": tag_count_reward, "reasoning_steps": reasoning_steps_reward}
ELSEWHERE = ["binary_code", "cf_code", "code", "code_format", "cosine", "ioi_code", "length", "repetition_penalty"]
ELSEWHERE += ["soft_overlong_punishment"]
"""Names of those that only Open-R1 has."""
