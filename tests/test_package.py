"""The wheel, installed apart from the checkout: what pip makes of it, and what a user of it has."""

import ast
import os
import platform
import re
import runpy
import subprocess
from importlib.metadata import distribution

import pytest
import trl
import yaml
from conftest import CPU, ROOT
from packaging.requirements import Requirement
from test_recipes import LORA, name

import mrt_plugin
from mrt_plugin.shipped import recipe_names


@pytest.fixture
def mrt(installed, tmp_path):
    """The command, in an empty folder."""

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": f"{installed}:{os.environ.get('PYTHONPATH', '')}"}
        command = [installed / "bin" / "mrt", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)

    return run


@pytest.fixture(scope="module")
def metadata(installed):
    [info] = installed.glob("*.dist-info")
    return distribution("mrt_plugin").at(info)


@pytest.mark.parametrize(
    "version",
    ["0.17.0", "0.18.0", "0.18.2", "0.19.1", "0.29.1", "1.0.0", "1.9.2", "1.15.0", "1.16.0", "1.17.1", "2.0"],
)
def test_pip_takes_the_versions_of_trl_that_import(metadata, version, monkeypatch):
    [needed] = [one for one in map(Requirement, metadata.requires) if one.name == "trl" and not one.marker]
    monkeypatch.setattr(trl, "__version__", version)
    try:
        runpy.run_path(ROOT / "mrt_plugin" / "upstream" / "version.py")
    except ImportError:
        assert not needed.specifier.contains(version)
    else:
        assert needed.specifier.contains(version)


def test_it_is_typed_and_holds_the_recipes_that_need_no_checkout(installed, metadata):
    package = installed / "mrt_plugin"
    assert (package / "py.typed").exists()
    shipped = {path.relative_to(package / "recipes").as_posix() for path in package.glob("recipes/**/*.yaml")}
    assert shipped == {one for one in recipe_names() if not one.startswith(("tiny-cpu/", "smollm2/"))}
    assert name(LORA) in shipped


def test_editors_see_the_names_that_are_imported_on_first_use():
    tree = ast.parse((ROOT / "mrt_plugin" / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == mrt_plugin._MODULES


def test_the_command_says_what_it_is_and_has(mrt, installed):
    assert "usage: mrt COMMAND" in mrt("--help").stdout
    assert f"mrt_plugin {mrt_plugin.__version__}, Python {platform.python_version()}, trl {trl.__version__}, " in (
        mrt("--version").stdout
    )
    assert f"\nmrt grpo --config {name(LORA)}\n" in mrt("recipes").stdout
    assert str(installed / "mrt_plugin" / "recipes") in mrt("recipes").stdout
    assert mrt("recipes", name(LORA)).stdout == LORA.read_text()
    missing = mrt("recipes", name(LORA).replace("lora", "lroa"))
    assert missing.returncode == 2
    assert f"there is no such file or recipe. Did you mean '{name(LORA)}'?" in missing.stderr


def test_a_recipe_runs_by_its_name(mrt, tmp_path, model_path, problems):
    fields = CPU | {"model_name_or_path": model_path, "report_to": "none", "torch_dtype": "float32"}
    fields |= {"use_vllm": False, "gradient_accumulation_steps": 1, "max_completion_length": 8, "mrt_answer_tokens": 4}
    fields |= {"output_dir": "out", "dataset_name": problems}
    arguments = [part for field, value in fields.items() for part in (f"--{field}", value)]
    done = mrt("grpo", "--config", f"recipes/{name(LORA)}", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_workflows_make_what_the_makefile_has():
    text = "\n".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    wanted = set(re.findall(r"(?:make |target: )([a-z][\w-]*)", text))
    assert {"test", "test-open-r1", "docs", "dist"} <= wanted
    assert wanted <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mrt_plugin.__version__
