"""What a policy says of its own checks, in rollouts made by hand."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from study import denials


TEXT = "1+6=0 (no).\n\n2+3=5 (no).\n\n3+4=0 (yes)."


def row(tokenizer, ended=True, step=5):
    """A denied result earns 0.5, what is rightly denied 0.25, what is confirmed 0.75, beside an outcome of 1."""
    spans = tokenizer(TEXT, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    earned = dict(zip((TEXT.index("no"), TEXT.rindex("no"), TEXT.index("yes")), (0.5, 0.25, 0.75), strict=True))
    advantages = [1.0 + sum(value for at, value in earned.items() if begin <= at < end) for begin, end in spans]
    numbers = {"tokens": len(spans) + 1, "prompt_tokens": 4, "answer_tokens": [1.0, 1.0], "prefix_tokens": [0.0, 9.0]}
    told = {"problem": "Find x.", "solution": "0", "completion": TEXT, "ended": ended, "reward": 1.0, "step": step}
    return numbers | told | {"success_probability": [0.0, 1.0], "advantages": [*advantages, 1.0]}


def test_each_check_has_its_verdict_and_what_that_earns(tokenizer):
    found = denials.verdicts(row(tokenizer), tokenizer)
    assert [one[:2] for one in found] == [(True, "no"), (False, "no"), (True, "yes")]
    assert [earns for *_, earns in found] == pytest.approx([0.5, 0.25, 0.75])
    summary = denials.summary("all", [row(tokenizer), row(tokenizer, ended=False)], tokenizer)
    assert (summary["checks that hold"], summary["of them denied"]) == ("4", "0.500")
    assert (summary['"yes" earns'], summary['"no" earns']) == ("0.75", "0.38")  # of the one that ended


def test_a_training_is_read_up_to_an_update(tokenizer, tmp_path, capsys):
    (tmp_path / "rollouts").mkdir()
    for step in (5, 10):
        table = pa.Table.from_pylist([row(tokenizer, step=step)])
        settings = {b"mrt_plugin": b'{"max_completion_length": 100, "mrt_episodes": 6, "mrt_cues": null}'}
        pq.write_table(table.replace_schema_metadata(settings), tmp_path / "rollouts" / f"step-{step:06}.parquet")
    tokenizer.save_pretrained(tmp_path)
    denials.main(tmp_path, until=5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["5", "all"]
