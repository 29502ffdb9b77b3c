"""Problems whose messages have content in parts, of which the builders died, and data sets that are one file."""

import gzip
import json
from types import SimpleNamespace

import pytest
from conftest import changed
from datasets import Dataset
from test_launch import run

from mrt_plugin.datasets import conversation
from mrt_plugin.grpo import without_long_prompts
from mrt_plugin.jobs.arguments import JobArguments
from mrt_plugin.jobs.problems import read_problems, usable


SEEN = []


def test_messages_that_hold_the_solution_are_refused(tmp_path):
    """NuminaMath's column `messages` ends in the assistant's turn."""
    turns = [{"role": "user", "content": "Find x."}, {"role": "assistant", "content": "It is $\\boxed{5}$."}]
    path = tmp_path / "numina.jsonl"
    path.write_text(json.dumps({"messages": turns, "solution": "5"}))
    args = JobArguments(dataset_name=str(path), dataset_prompt_column="messages")
    with pytest.raises(ValueError, match="end in the assistant's turn .'It is .* would give the solution away"):
        read_problems(args)


def test_a_system_prompt_is_said_once():
    """`mrt prefixes` writes prompts that begin with that of its recipe, which `mrt grpo` may name again."""
    prompt = conversation("Find x.", "Be brief.")
    assert conversation(prompt, "Be brief.") == prompt == conversation(prompt)
    with pytest.raises(ValueError, match=r"a system prompt of its own \('Be brief.'\). Leave system_prompt out"):
        conversation(prompt, "Take your time.")


def prompts_are_text(prompts, completions, **kwargs):
    """A reward that looks at the prompts."""
    SEEN.extend(message["content"] for prompt in prompts for message in prompt)
    return [float(len(completion[0]["content"]) % 5) for completion in completions]


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def text(words):
    return {"type": "text", "text": words}


@pytest.fixture
def file(tmp_path):
    """A file of problems in parts, beside one that is no data."""
    (tmp_path / "README.md").write_text("---\nconfigs: [{config_name: x, data_files: nowhere.jsonl}]\n---\n")
    path = tmp_path / "problems.jsonl"
    rows = [{"problem": user(text("Find x "), text(f"with {i} x = {i}.")), "solution": 1} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_trainer_takes_both(recipe, tmp_path, model_path, file):
    SEEN.clear()
    rewards = ["--reward_funcs", "mrt_progress", "test_problems_and_files_as_they_come.prompts_are_text"]
    run("grpo", recipe, *rewards, "--dataset_name", str(file), "--system_prompt", "Think.")
    assert changed(model_path, tmp_path / "out")
    assert SEEN[0] == "Think."
    assert set(SEEN[1::2]) <= {f"Find x with {i} x = {i}." for i in range(8)}


def test_the_builders_take_both(tokenizer, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    problems = read_problems(JobArguments(dataset_name=file.name))
    assert [problem.text for problem in problems] == [f"Find x with {i} x = {i}." for i in range(8)]
    assert tokenizer.decode(problems[0].prompt_ids(tokenizer)).startswith("<|user|>Find x with 0 x = 0.<|eos|>")
    mixture = {"datasets": [{"id": file.name, "weight": 0.5}]}
    assert len(read_problems(JobArguments(dataset_mixture=mixture))) == 4


def test_a_problem_that_is_not_all_text_is_dropped(tokenizer, file):
    rows = [{"problem": user(text("See:"), {"type": "image", "text": None}), "solution": "1"}]
    rows.append({"problem": user(text("Find x.")), "solution": "1"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_problems(JobArguments(dataset_name=str(file)))
    prompts, dropped = usable(found, SimpleNamespace(tokenizer=tokenizer, max_length=None), room={})
    assert [problem.text for problem in prompts] == ["Find x."]
    assert list(dropped.values()) == ["the problem is not all text"]


def test_a_file_of_another_kind_is_named(tmp_path):
    path = tmp_path / "problems.jsnl"
    path.write_text("")
    with pytest.raises(ValueError, match="dataset_name: unknown '.jsnl'. Did you mean '.jsonl'"):
        read_problems(JobArguments(dataset_name=str(path)))


def test_compressed_and_columnar_files(tmp_path):
    rows = Dataset.from_list([{"problem": "Find x.", "solution": 1}])
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_csv(tmp_path / "rows.csv")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as compressed:
        compressed.write('{"problem": "Find x.", "solution": 1}')
    for name in ("rows.parquet", "rows.csv", "rows.jsonl.gz"):
        [problem] = read_problems(JobArguments(dataset_name=str(tmp_path / name)))
        assert (problem.text, problem.solution) == ("Find x.", "1")


def test_long_prompts_of_a_stream_are_left_out_as_they_come(tokenizer):
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("Find x.", "Find x. " * 50)]
    stream = Dataset.from_list(rows).to_iterable_dataset()
    assert list(without_long_prompts(stream, tokenizer, 40)) == rows[:1]
