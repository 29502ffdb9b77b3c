"""README and docs/: links lead somewhere, names and commands exist, and what runs in seconds on two cores is run."""

import ast
import doctest
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import fields
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path

import pytest
import yaml
from conftest import CPU, byte_level_tokenizer, tiny_model
from datasets import Dataset
from test_trainer import build

import mrt_plugin
from mrt_plugin import MetaProver, MRTArguments
from mrt_plugin.cli import OTHERS, TRAINING
from mrt_plugin.engines.sampling import SamplingSettings
from mrt_plugin.episodes import CUES
from mrt_plugin.meta_prover import ESTIMATORS, SampledAnswers
from mrt_plugin.rewards import REWARDS
from mrt_plugin.tokens import tokenize
from mrt_plugin.traces import segment
from mrt_plugin.upstream.recipe import RENAMED
from mrt_plugin.upstream.version import TRL_1


ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "recipes/README.md", ROOT / "study/README.md"])
COMMANDS = TRAINING.keys() | OTHERS.keys()
OF_OTHERS = {".", "cd", "cp", "done", "export", "for", "git", "mkdir", "sbatch", "trl", "vllm"}
"""What lines of commands begin with that are not ours."""

DORMANT = "open-r1-entry-points.md"
FENCE = re.compile(r"(?:<!-- (.*?) -->\n)?^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def blocks(language, pages=PAGES):
    """Page, what the comment above says, and code, of each block of a language; but for drafts of others' code."""
    found = [(page, *match.groups()) for page in pages for match in FENCE.finditer(page.read_text())]
    return [
        (page, said, code) for page, said, _, name, code in found if name == language and "open-r1-e" not in page.name
    ]


def ids(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else None


# Links.


@cache
def headings(page):
    """Their anchors, as GitHub makes them."""
    text = FENCE.sub("", page.read_text())
    titles = [re.sub(r"\[(.*?)\]\(.*?\)|[`*]", r"\1", title) for title in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_to_files_and_headings(page):
    for target, heading in LINK.findall(FENCE.sub("", page.read_text())):
        if ":" in target or target.startswith("<"):
            continue
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{target} is not there"
        assert found.is_relative_to(ROOT), f"{target} is not in the repository"
        assert not heading or heading in headings(found), f"{target} has no heading #{heading}"


def test_the_site_has_every_page():
    text = (ROOT / "zensical.toml").read_text()
    pages = {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}
    listed = re.findall(r'"([\w/.-]+\.md)"', text)
    assert sorted(listed) == sorted(page for page in pages if not page.startswith("upstream/"))


@pytest.mark.parametrize("repository", ["https://example.org/r", None])
def test_links_out_of_the_docs_lead_to_the_repository(repository):
    spec = spec_from_file_location("build", ROOT / "docs/build.py")
    site = module_from_spec(spec)
    spec.loader.exec_module(site)
    text = "[a](../concepts.md#j) [`b`](../../recipes) ![c](../figures/x.png) [d](../../README.md#e) [f](https://g.h)"
    shown = {
        "https://example.org/r": "[`b`](https://example.org/r/tree/main/recipes) ![c](../figures/x.png) "
        "[d](https://example.org/r/blob/main/README.md#e)",
        None: "`b` ![c](../figures/x.png) d",
    }[repository]
    expected = f"[a](../concepts.md#j) {shown} [f](https://g.h)"
    assert site.for_the_site(text, ROOT / "docs/guides/x.md", repository) == expected


# Commands, fields and names.


@cache
def options(command):
    """Of `mrt COMMAND`, as its help lists them, and the names that fields have in the other generation of TRL."""
    run = import_module(f"mrt_plugin.{OTHERS[command][0] if command in OTHERS else command}").run
    with redirect_stdout(StringIO()) as shown, pytest.raises(SystemExit):
        run([*["--upstream", "trl"] * (command in TRAINING), "--help"])
    names = {"config"} | set(re.findall(r"--([a-z][\w-]+)", shown.getvalue()))
    return names | {other for pair in RENAMED.items() if names & set(pair) for other in pair}


def environment(**more):
    return os.environ | {"PYTHONPATH": ":".join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"} | more


def check_options(command, words):
    for position, word in enumerate(words):
        if word.startswith("--") and word != "--accelerate_config":
            assert word[2:].partition("=")[0] in options(command), f"mrt {command} has no {word}"
        if re.match(r"(recipes|study)/", word) and words[position - 1] == "--config":
            of_ours = not word.startswith("recipes/Qwen2.5")  # a recipe of Open-R1's
            assert not of_ours or (ROOT / word).is_file(), f"there is no {word}"


def check_command(words):
    """Raises an `AssertionError` where a command of a page does not exist."""
    while words and re.match(r"\w+=", words[0]):
        del words[0]
    if not words:
        return
    if words[0] == "mrt":
        assert words[1] in COMMANDS, f"there is no mrt {words[1]}"
        check_options(words[1], words[2:])
    elif words[:2] == ["accelerate", "launch"]:
        module = words[words.index("-m") + 1]
        assert find_spec(module), f"there is no {module}"
        task = module.rpartition(".")[2]
        check_options("grpo" if task == "run" else task, words[words.index("-m") + 2 :])
        if "--config_file" in words[: words.index("-m")]:
            assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"there is no make {words[1]}"
    elif words[0] == "pip":
        packaging = (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()
        for extra in re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*?)\]", " ".join(words)))):
            assert re.search(rf'^ *"?{extra}"?[:=\]" ]', packaging, re.MULTILINE), f"there is no extra {extra}"
    elif words[0] == "python":
        there = find_spec(words[2]) if words[1] == "-m" else (ROOT / words[1]).is_file()
        assert there, f"there is no {' '.join(words[1:3])}"
    else:
        assert words[0] in OF_OTHERS, f"{words[0]} is no command that this test knows"


def lines(code):
    return [words for line in code.replace("\\\n", " ").splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_and_their_options_exist(page):
    for _, _, code in blocks("bash", [page]):
        for words in lines(code):
            check_command(words)


@pytest.mark.parametrize(
    ("command", "match"),
    [
        ("mrt grop --config x.yaml", "no mrt grop"),
        ("mrt grpo --config recipes/tiny-cpu/grpo/config_mrt.yaml --mrt_alfa 1", "no --mrt_alfa"),
        ("accelerate launch -m mrt_plugin.grpo --config recipes/tiny-cpu/grpo/config_mtr.yaml", "no recipes/tiny-cpu"),
        ("make demmo", "no make demmo"),
        ("pip install '.[figurs]'", "no extra figurs"),
        ("frobnicate", "no command"),
    ],
)
def test_a_command_that_does_not_exist_is_seen(command, match):
    with pytest.raises(AssertionError, match=match):
        check_command(shlex.split(command))


def test_fields_of_recipes_on_the_pages_exist():
    found = [yaml.safe_load(code) for _, _, code in blocks("yaml")]
    for recipe in (one for one in found if isinstance(one, dict)):
        assert set(recipe) <= options("grpo")
    assert any("mrt_credit" in recipe for recipe in found)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_names_of_ours_exist(page):
    known = {field.name for field in fields(MRTArguments)} | set(REWARDS) | {"mrt_plugin", "mrt_integration"}
    assert set(re.findall(r"`-{0,2}(mrt_\w+)", page.read_text())) <= known


def test_python_on_the_pages_imports_what_exists():
    for _, _, code in blocks("python"):
        if ">>>" in code:
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mrt_plugin":
                module = import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


# What is run.


@pytest.mark.parametrize("page", sorted({page for page, _, code in blocks("python") if ">>>" in code}), ids=ids)
def test_examples_of_a_page(page):
    text = "\n".join(code for _, _, code in blocks("python", [page]) if ">>>" in code)
    runner, printed = doctest.DocTestRunner(), []
    runner.run(doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0), out=printed.append)
    assert not runner.failures, "".join(printed)


@pytest.mark.skipif(not TRL_1, reason="the demo's warm start has a tokenizer of transformers 5")
@pytest.mark.parametrize(("page", "said", "code"), [block for block in blocks("bash") if block[1] == "run"], ids=ids)
def test_a_block_of_commands_runs_as_it_stands(tmp_path, page, said, code):
    for folder in ("recipes", "study"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mrt").write_text(f'#!/bin/sh\nexec {sys.executable} -m mrt_plugin.cli "$@"\n')
    (tmp_path / "bin/mrt").chmod(0o755)
    path = environment(PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    done = subprocess.run(["bash", "-euc", code], cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


TRAINS = [(page, code) for page, _, code in blocks("python") if "MRTTrainer(" in code]


@pytest.mark.parametrize(("page", "code"), TRAINS, ids=ids)
def test_a_script_of_a_page_trains(tmp_path, monkeypatch, page, code):
    """With a tiny model and problems under the names of those that it loads."""
    monkeypatch.chdir(tmp_path)
    [model], [data] = re.findall(r'model="(.*?)"', code), re.findall(r'load_dataset\("(.*?)"', code)
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(model)
    tiny_model(tokenizer, initializer_range=0.02).save_pretrained(model)
    Path(data).mkdir(parents=True)
    rows = [{"prompt": [{"role": "user", "content": f"Find x with {i} x = {i}."}], "solution": "1"} for i in range(8)]
    (Path(data) / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = CPU | {"num_generations": 4, "max_completion_length": 8, "mrt_answer_tokens": 4, "max_steps": 1}
    monkeypatch.setattr(mrt_plugin, "MRTConfig", partial(mrt_plugin.MRTConfig, **small), raising=False)
    scope = {}
    exec(code, scope)
    assert scope["trainer"].state.global_step == 1
    assert any("mrt/" in name for entry in scope["trainer"].state.log_history for name in entry)


def test_data_of_the_pages_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub = Path("di-zhang-fdu/AIME_1983_2024")
    hub.mkdir(parents=True)
    rows = [{"Year": year, "Question": "What is 3 + 4?", "Answer": "7"} for year in (1988, 1989, 2023, 2024)]
    Dataset.from_list(rows).to_parquet(hub / "train.parquet")
    made = [code for _, _, code in blocks("python", [ROOT / "docs/guides/data.md"])]
    for code in made:
        exec(code, {})
    assert len(Dataset.from_parquet("data/mine/train.parquet")) == len(made) == 2
    assert Dataset.from_parquet("data/aime_1989_2023/train.parquet")[:] == {
        "problem": ["What is 3 + 4?"] * 2,
        "solution": ["7"] * 2,
    }


# The guide to extending.


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Imports a module that the guide shows, as a file of its reader's."""
    shown = {said: code for _, said, code in blocks("python", [ROOT / "docs/guides/extend.md"]) if said}
    monkeypatch.syspath_prepend(tmp_path)

    def load(name):
        (tmp_path / f"{name}.py").write_text(shown[f"module: {name}"])
        return import_module(name)

    yield load
    for name in shown:
        sys.modules.pop(name.removeprefix("module: "), None)


def test_the_credit_of_the_guide(tmp_path, tokenizer, module):
    credit = module("my_credit").TO_GO
    trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "my_credit.TO_GO", "mrt_answer_tokens": 4})
    trainer.train()
    assert trainer.credit is credit
    assert trainer.state.global_step == 2


def test_the_estimator_of_the_guide(tmp_path, tokenizer, module, monkeypatch):
    monkeypatch.setattr("mrt_plugin.meta_prover.ESTIMATORS", ESTIMATORS)
    name = module("my_estimator").TokenLikelihood.name
    try:
        trainer = build(tmp_path, tokenizer, mrt={"mrt_credit": "dense", "mrt_estimator": name})
        trainer.train()
    finally:
        del ESTIMATORS[name]
    assert trainer.state.global_step == 2


def test_the_engine_of_the_guide(tokenizer, module):
    sampler = module("my_engine").ConstantSampler(tokenizer, "5}")
    prover = MetaProver(sampler, SampledAnswers(2, SamplingSettings(max_new_tokens=4)), "answer")
    completion = tokenize(tokenizer, "Try 5.\n\nYes.\n</think>\n\n\\boxed{5}")
    trace = segment(tokenizer, tokenize(tokenizer, "<think>\n"), completion, "5", 6, CUES)
    assert prover.success_probabilities([trace])[0].success_probability.tolist() == [1.0, 1.0]


def test_the_builder_of_the_guide(tmp_path, module, model_path, problems):
    fields = {"model_name_or_path": model_path, "dataset_name": problems, "output_dir": str(tmp_path / "rows")}
    fields |= {"num_generations": 2, "max_completion_length": 8, "sampler": "transformers"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    module("my_builder").run(["--config", str(tmp_path / "recipe.yaml")])
    [shard] = (tmp_path / "rows").rglob("*.parquet")
    assert len(Dataset.from_parquet(str(shard))) == 16


# For upstream.


TESTING_UTILS = """
from functools import partial

import pytest
import trl

trl.GRPOConfig = partial(trl.GRPOConfig, use_cpu=True, bf16=False)


class TrlTestCase:
    @pytest.fixture(autouse=True)
    def set_tmp_dir(self, tmp_path):
        self.tmp_dir = str(tmp_path)
"""
ZEN = "configs:\n- config_name: standard_prompt_only\n  data_files: train.jsonl\n"


@pytest.mark.skipif(not TRL_1, reason="trl 0.18 does not take advantages of shape (B, T)")
def test_what_could_be_sent_to_trl_passes_there(tmp_path, tokenizer):
    """As a file of TRL's tests, with a tiny model and data set of ours under the names of TRL's."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/__init__.py").touch()
    (tmp_path / "tests/testing_utils.py").write_text(TESTING_UTILS)
    (tmp_path / "tests/conftest.py").write_text("from . import testing_utils")
    test = ROOT / "docs/upstream/test_grpo_per_token_advantages.py"
    (tmp_path / "tests" / test.name).write_text(test.read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    hub = tmp_path / "trl-internal-testing"
    tokenizer.save_pretrained(hub / "tiny-Qwen2ForCausalLM-2.5")
    tiny_model(tokenizer, initializer_range=0.02).save_pretrained(hub / "tiny-Qwen2ForCausalLM-2.5")
    (hub / "zen").mkdir()
    (hub / "zen/README.md").write_text(f"---\n{ZEN}---\n")
    (hub / "zen/train.jsonl").write_text("\n".join([json.dumps({"prompt": "Find x."})] * 6))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "11 passed" in done.stdout
