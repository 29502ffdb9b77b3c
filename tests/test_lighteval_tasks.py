"""The tasks for lighteval, against stand-ins for the names of it that they use: it is no dependency of ours."""

import importlib.util
import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


FILE = Path(__file__).parents[1] / "recipes/evaluation/lighteval_tasks.py"
FIELDS = ["name", "prompt_function", "hf_repo", "hf_subset", "hf_avail_splits", "evaluation_splits", "generation_size"]


@pytest.fixture(params=["metric", "metrics"])
def tasks(request, monkeypatch):
    """The file's module, with lighteval as it is in the commit that Open-R1 pins, and as in its release 0.13."""
    pinned, released = SimpleNamespace(math_pass_at_1_16n="pass@1"), SimpleNamespace(pass_at_k_math=dict)
    config = make_dataclass("LightevalTaskConfig", [*FIELDS, request.param])
    names = {
        "metrics.metrics": {"Metrics": pinned if request.param == "metric" else released},
        "tasks.lighteval_task": {"LightevalTaskConfig": config},
        "tasks.requests": {"Doc": SimpleNamespace},
    }
    for name in ("", "metrics", "tasks"):
        monkeypatch.setitem(sys.modules, f"lighteval.{name}".rstrip("."), ModuleType("package"))
    for name, attributes in names.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, f"lighteval.{name}", module)
    spec = importlib.util.spec_from_file_location("lighteval_tasks", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_benchmarks_are_measured_with_16_samples(tasks):
    assert [(task.name, task.hf_repo) for task in tasks.TASKS_TABLE] == [
        ("amc_2023", "math-ai/amc23"),
        ("minerva_math", "math-ai/minervamath"),
    ]
    for task in tasks.TASKS_TABLE:
        assert getattr(task, tasks.METRICS) == (
            ["pass@1"] if tasks.METRICS == "metric" else [{"sample_params": {"k": 1, "n": 16}}]
        )


def test_a_row_becomes_a_question_with_its_gold_answer(tasks):
    doc = tasks.ask({"question": "How many?", "answer": 27.0}, "amc_2023")
    assert (doc.choices[doc.gold_index], doc.task_name) == ("27.0", "amc_2023")
    assert doc.query.endswith("How many?")
    assert "\\boxed{}" in doc.query
