r"""Chat templates and thinking: whether SFT trains on the thinking that its rows hold.

Templates are made for talking to a model, and many change a thinking on its way back: DeepSeek's drop it, others put
an empty one in front. Left out: answers without thinking, and rows of text, which no template touches.
"""

from collections.abc import Iterable
from itertools import islice

from trl import maybe_convert_to_chatml

from .datasets import text_of
from .episodes import CLOSE, OPEN


LOOKED_THROUGH = 1000
"""Rows among which the first that holds thinking is looked for."""


def check_thinking(rows: Iterable[dict], tokenizer) -> None:
    """
    Renders the first row whose answer holds thinking. The text has to begin with the prompt, as it is rendered where a
    model is to answer, and to hold the thinking once.

    Raises:
        `ValueError`: If it does not; it says what the template does, and which one to set.
    """
    for number, row in enumerate(islice(rows, LOOKED_THROUGH)):
        row = maybe_convert_to_chatml(row)
        if isinstance(row.get("prompt"), str):
            prompt, answer = row["prompt"], row.get("completion") or ""
            thinking = thinking_of(answer)
            fault = _fault_of_text(prompt, answer)
        else:
            messages = row.get("messages") or [*(row.get("prompt") or []), *(row.get("completion") or [])]
            if len(messages) < 2 or messages[-1]["role"] != "assistant":
                continue
            reasoning, content = messages[-1].get("reasoning_content"), text_of(messages[-1]["content"]) or ""
            thinking = thinking_of(reasoning + CLOSE if reasoning else content)
            if thinking:
                fault = _fault(thinking, messages, tokenizer, row.get("chat_template_kwargs") or {}, bool(reasoning))
        if thinking and fault:
            raise ValueError(f"In row {number} of the training data, {fault}.")
        if thinking:
            return


def thinking_of(answer: str) -> str:
    r"""
    The thinking that an answer begins with, in its tags; empty where it holds none.

    >>> thinking_of("<think>\nHm.\n</think>\n5"), thinking_of("Hm.</think>5"), thinking_of("<think>\n\n</think>5")
    ('<think>\nHm.\n</think>', '<think>Hm.</think>', '')
    """
    before, close, _ = answer.partition(CLOSE)
    before = before if OPEN in before else OPEN + before
    return before + close if close and before.strip() != OPEN else ""


def _fault(thinking: str, messages: list[dict], tokenizer, kwargs: dict, apart: bool) -> str:
    """What is wrong with a rendered row whose thinking stands in its content, or `apart`; empty where nothing is."""
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True, **kwargs)
    text = tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
    remedy = (
        "set chat_template to one that writes an assistant's content as it stands, such as that of "
        "recipes/DeepSeek-R1-Distill-Qwen-1.5B/sft/config_mrt.yaml for R1's models"
    )
    if _bare(thinking.partition(OPEN)[2].removesuffix(CLOSE)) not in _bare(text):
        remedy = "put reasoning_content into the content, between tags, and " * apart + remedy
        return f"the chat template drops the thinking of the answer: {remedy}"
    if not text.startswith(prompt):
        where = f"the prompt, which ends in {prompt[-40:]!r} where a model is to answer"
        return f"the chat template does not begin the conversation with {where}: {remedy}"
    opened = OPEN if prompt.rstrip().endswith(OPEN) else ""
    head, found, _ = _bare(opened + text[len(prompt) :]).partition(_bare(thinking))
    if not apart and (not found or OPEN in head or CLOSE in head):
        return f"the chat template puts {text[len(prompt) :][:40]!r} where the thinking should begin: {remedy}"
    return ""


def _fault_of_text(prompt: str, completion: str) -> str:
    if prompt.rstrip().endswith(OPEN) and completion.lstrip().startswith(OPEN):
        return f"the prompt ends in {OPEN} and the completion begins with another: leave one of them out"
    return ""


def _bare(text: str) -> str:
    """The text without white space, which templates may change."""
    return "".join(text.split())
