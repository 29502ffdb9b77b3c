"""The names that `mrt_plugin` itself offers: each is what it says, whatever was imported before."""

import pkgutil
from importlib import import_module
from types import ModuleType

import pytest
from conftest import tiny_model

import mrt_plugin


@pytest.fixture(scope="module", autouse=True)
def every_submodule():
    for module in pkgutil.walk_packages(mrt_plugin.__path__, "mrt_plugin."):
        import_module(module.name)


USES = {
    "MRTArguments": lambda use: use(mrt_samples=8).mrt_samples == 8,
    "MRTCallback": lambda use: use().trainer is None,
    "MRTConfig": lambda use: use(output_dir="runs", use_cpu=True, bf16=False).mrt_credit == "auto",
    "MRTTrainer": lambda use: use.__mro__[1].__name__.startswith("GRPOTrainer"),
    "MetaProver": lambda use: callable(use.success_probabilities),
    "PolicySampler": lambda use: callable(use.sample),
    "episode_spans": lambda use: use("Hm.") == [(0, 3)],
    "grade": lambda use: use([r"\boxed{5}"], ["5"])[0].value == "right",
    "mrt_accuracy": lambda use: use([r"\boxed{5}"], solution=["5"]) == [1.0],
    "mrt_length_penalty": lambda use: use(["?"], [r"\boxed{5}"], [[1]], ["5"], alpha=0.0) == [1.0],
    "mrt_progress": lambda use: use([r"\boxed{5}"], ["5"], prefix_success=[0.25], continues=[True]) == [0.75],
    "normalized_regret": lambda use: use([1.0], [1000], 2000) == 0.25,
    "register": lambda use: use() is None,
}


def test_every_name_has_a_use():
    assert set(USES) == set(mrt_plugin.__all__)
    assert set(mrt_plugin.__all__) <= set(dir(mrt_plugin))


@pytest.mark.parametrize("name", mrt_plugin.__all__)
def test_a_name_is_no_module_and_works(name):
    found = getattr(mrt_plugin, name)
    assert not isinstance(found, ModuleType)
    assert USES[name](found)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'mrt_acuracy'"):
        _ = mrt_plugin.mrt_acuracy


def test_a_sampler_by_its_public_name_writes(tokenizer):
    from mrt_plugin.engines.sampling import Prompt, SamplingSettings

    sampler = mrt_plugin.PolicySampler(tiny_model(tokenizer), tokenizer)
    [[completion]] = sampler.sample([Prompt([5, 6, 7])], 1, SamplingSettings(max_new_tokens=2, seed=0))
    assert completion
