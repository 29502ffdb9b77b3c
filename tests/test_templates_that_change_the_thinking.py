"""Chat templates that drop or double the thinking of demonstrations, on which SFT then trained without it."""

import copy
import json

import pytest
from conftest import CHAT_TEMPLATE, CPU, changed, write
from test_launch import run

from mrt_plugin.templates import check_thinking
from mrt_plugin.upstream.version import TRL_1


TURNS = "{% for message in messages %}<|{{ message.role }}|>CONTENT{{ eos_token }}{% endfor %}"
TURNS += "{% if add_generation_prompt %}<|assistant|>PROMPT{% endif %}"
DROP = "{% set content = message.content %}{% if '</think>' in content %}"
DROP += "{% set content = content.split('</think>')[-1] %}{% endif %}"
APART = "{% set content = message.content %}{% if message.role == 'assistant' %}"
APART += "{% set thinking = message.reasoning_content or '' %}SPLIT<think>\n{{ thinking }}\n</think>\n\n{% endif %}"
SPLIT = (
    "{% if '</think>' in content %}{% set thinking = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
)
SPLIT += "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"


def template(content, prompt=""):
    return TURNS.replace("CONTENT", content).replace("PROMPT", prompt)


R1 = template(DROP + "{{ content }}", "<think>\n")
V3 = template(DROP + "{% if message.role == 'assistant' %}</think>{% endif %}{{ content }}", "</think>")
QWEN3 = template(APART.replace("SPLIT", SPLIT) + "{{ content }}")
QWEN3_EMPTY = template(APART.replace("SPLIT", "") + "{{ content }}")
QWEN3_CLOSED = template(APART.replace("SPLIT", SPLIT) + "{{ content }}", "<think>\n\n</think>\n\n")
QWEN3_OPENED = template(APART.replace("SPLIT", "") + "{{ content }}", "<think>\n")
PLAIN = template("{{ message.content }}")
ANSWER = "<think>\nTry 2.\n\nWait, 5.\n</think>\n\nIt is \\boxed{5}."


def row(answer=ANSWER, **message):
    return {"messages": [{"role": "user", "content": "Find x."}, {"role": "assistant", "content": answer, **message}]}


def apart(thinking="Try 2.\n\nWait, 5."):
    return row("It is \\boxed{5}.", reasoning_content=thinking)


def split(turns):
    return {"prompt": turns["messages"][:-1], "completion": turns["messages"][-1:]}


def sharegpt(turns):
    return {"conversations": [{"from": m["role"], "value": m["content"]} for m in turns["messages"]]}


def parts(turns):
    messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in turns["messages"]]
    return {"messages": messages}


@pytest.fixture
def sft(tmp_path, model_path):
    """Runs `mrt sft` on rows, with a chat template of the recipe."""

    def sft(rows, chat_template, *arguments):
        folder = tmp_path / "rows"
        folder.mkdir(exist_ok=True)
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
        fields = {"model_name_or_path": model_path, "dataset_name": str(folder), "chat_template": chat_template}
        run("sft", write(tmp_path / "sft.yaml", CPU | fields | {"output_dir": str(tmp_path / "out")}), *arguments)

    return sft


DROPS = "drops the thinking of the answer: set chat_template to one that writes an assistant's content as it stands"
FAULTS = [
    (R1, row(), DROPS),
    (R1, split(row()), DROPS),
    (V3, row(), DROPS),
    (QWEN3_EMPTY, row(), r"puts '<think>\\n\\n</think>\\n\\n<think>\\nTry 2.*' where the thinking should begin: set"),
    (QWEN3_OPENED, row(), r"puts '\\n</think>.*' where the thinking should begin: set chat_template"),
    (QWEN3_CLOSED, row(), r"does not begin .* with the prompt, which ends in '.*<think>\\n\\n</think>\\n\\n' where"),
    (CHAT_TEMPLATE, row(ANSWER.removeprefix("<think>\n")), r"does not begin .* which ends in '.*<think>\\n' where"),
    (
        PLAIN,
        apart(),
        "drops the thinking of the answer: put reasoning_content into the content, between tags, and set",
    ),
]
FINE = [
    (QWEN3, row()),
    (QWEN3, split(row())),
    (QWEN3, apart()),
    (QWEN3_EMPTY, apart()),
    (PLAIN, row()),
    (PLAIN, row("Sure. " + ANSWER)),
    (PLAIN, row(ANSWER.replace("Try", "The tag <think>. Try"))),
    (CHAT_TEMPLATE, row()),
    *((one, row("It is \\boxed{5}.")) for one in (R1, V3, QWEN3, QWEN3_EMPTY, QWEN3_CLOSED)),  # no thinking to lose
    (R1, row("<think>\n\n</think>\n\nIt is \\boxed{5}.")),
    (R1, {"messages": [{"role": "user", "content": ANSWER}]}),
]


@pytest.mark.parametrize(("chat_template", "bad", "match"), FAULTS)
def test_sft_stops_before_it_trains_and_says_which_template_to_set(sft, chat_template, bad, match):
    with pytest.raises(ValueError, match=f"sft.yaml: In row 0 of the training data, the chat template {match}"):
        sft([bad], chat_template)


@pytest.mark.parametrize(("chat_template", "good"), FINE)
def test_rows_that_are_shown_as_they_are_pass(tokenizer, chat_template, good):
    shown = copy.deepcopy(tokenizer)
    shown.chat_template = chat_template
    check_thinking([good], shown)


@pytest.mark.parametrize("form", [sharegpt, parts])
def test_other_forms_of_a_conversation(tokenizer, form):
    shown = copy.deepcopy(tokenizer)
    shown.chat_template = R1.replace("message.content", "(message.content if message.content is string else '')")
    with pytest.raises(ValueError, match="In row 2 of the training data, the chat template drops the thinking"):
        check_thinking([form(row("5")), form(row("5")), form(row())], shown)


def test_sft_trains_on_the_thinking(sft, tmp_path, model_path):
    sft([row()] * 8, PLAIN)
    assert changed(model_path, tmp_path / "out")


@pytest.mark.skipif(not TRL_1, reason="trl 0.18 has no chat_template_path")
def test_the_template_of_a_file_is_the_one_that_counts(sft, tmp_path, model_path):
    path = tmp_path / "plain.jinja"
    path.write_text(PLAIN)
    sft([row()] * 8, R1, "--chat_template_path", str(path))
    assert changed(model_path, tmp_path / "out")


def test_rows_of_backtracking_open_their_thinking_once(tokenizer):
    """They are text, which no template touches."""
    prompt, completion = "<|user|>Find x.<|eos|><|assistant|>", "Node 1: x = 4.\n\nBut wait.\n\nNode 1: x = 5."
    check_thinking([{"prompt": prompt, "completion": completion}], tokenizer)
    check_thinking([{"prompt": prompt, "completion": ANSWER}], tokenizer)
    check_thinking([{"prompt": prompt + "<think>\n", "completion": "Hm.</think>5"}], tokenizer)
    with pytest.raises(ValueError, match="In row 0 .* ends in <think> and the completion begins with another"):
        check_thinking([{"prompt": prompt + "<think>\n", "completion": ANSWER}], tokenizer)
