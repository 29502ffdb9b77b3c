"""`register()` and the runner on any stack, without Open-R1: what TRL builds and parses is ours, or is refused."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from functools import partial

import pytest
import trl
from conftest import CPU, write
from test_trainer import dataset
from trl import GRPOConfig, GRPOTrainer, ModelConfig, TrlParser

from mrt_plugin import MRTArguments, MRTCallback, MRTConfig, MRTTrainer, mrt_accuracy, mrt_progress, register
from mrt_plugin.upstream.recipe import with_mrt_fields
from mrt_plugin.upstream.version import TRL_1


SMALL = {"num_generations": 4, "max_completion_length": 8} | CPU


@dataclass
class ForkConfig(GRPOConfig):
    fork_field: int = 0


class ForkTrainer(GRPOTrainer):
    pass


def letters(completions, **kwargs):
    """A reward that a random model earns unequally, for prompts and for chats."""
    return [float(len(str(completion)) % 5) for completion in completions]


def parse(parser_type, config_type, path, fields, *arguments):
    write(path, {"output_dir": "out", "use_cpu": True, "bf16": False} | fields)
    return parser_type((config_type, ModelConfig)).parse_args_and_config(["--config", str(path), *arguments])


def test_whatever_builds_a_trainer_gets_ours(tmp_path, model_path):
    assert not isinstance(trl.GRPOTrainer.__new__(GRPOTrainer), MRTTrainer)
    register()
    register()
    config = GRPOConfig(output_dir=str(tmp_path), **SMALL)
    built = GRPOTrainer(model_path, [letters, mrt_progress], config, dataset())  # positional, a name bound before
    assert type(built) is MRTTrainer
    assert built.credit.name == "dense"
    assert isinstance(ForkTrainer(model_path, letters, config, dataset()), ForkTrainer)
    plain = partial(GRPOTrainer, model=model_path, reward_funcs=letters)(args=config, train_dataset=dataset())
    assert (type(plain), plain.credit.name) == (MRTTrainer, "none")


class TheirParser(TrlParser):
    """A fork's parser that reads one field by itself."""

    def parse_args_and_config(self, args=None, **kwargs):
        return super().parse_args_and_config([*args, "--fork_field", "7"], **kwargs)


@pytest.mark.parametrize("parser_type", [TrlParser, TheirParser])
def test_every_parser_knows_our_fields_and_names_what_it_does_not_know(tmp_path, parser_type):
    parser = parser_type((ForkConfig, ModelConfig))
    register()
    path = write(tmp_path / "fork.yaml", {"output_dir": "out", "use_cpu": True, "bf16": False, "mrt_samples": 3})
    config, model = parser.parse_args_and_config(["--config", str(path), "--mrt_alpha", "0.5"])
    assert isinstance(config, ForkConfig)
    assert isinstance(config, MRTArguments)
    assert (config.mrt_samples, config.mrt_alpha) == (3, 0.5)
    assert config.fork_field == (7 if parser_type is TheirParser else 0)
    for field, meant in (("mrt_credits", "mrt_credit"), ("fork_feld", "fork_field")):
        with pytest.raises(ValueError, match=f"has no field '{field}'. Did you mean '{meant}'"):
            parse(parser_type, ForkConfig, path, {field: "mixed"})


def test_a_fork_may_let_unknown_fields_pass_but_not_after_registration(tmp_path):
    register()
    lenient = {"return_remaining_strings": True} if not TRL_1 else {"fail_with_unknown_args": False}
    path = write(tmp_path / "fork.yaml", {"output_dir": "out", "use_cpu": True, "bf16": False, "mrt_credits": "mixed"})
    with pytest.raises(ValueError, match="Did you mean 'mrt_credit'"):
        TrlParser(ForkConfig).parse_args_and_config(["--config", str(path)], **lenient)


def test_regret_without_a_split_stops_before_anything_is_loaded(tmp_path):
    register()
    with pytest.raises(ValueError, match="Set eval_strategy: steps"):
        parse(TrlParser, GRPOConfig, tmp_path / "config.yaml", {"mrt_regret_steps": 1})
    parse(TrlParser, GRPOConfig, tmp_path / "config.yaml", {"mrt_regret_steps": 1, "eval_strategy": "steps"})


READ = """
import pickle, sys
config = pickle.load(open(sys.argv[1], "rb"))
print(config.mrt_samples, config.fork_field)
"""


def test_a_configuration_is_read_by_any_process(tmp_path):
    config = with_mrt_fields(ForkConfig)(output_dir="out", use_cpu=True, bf16=False, mrt_samples=3, fork_field=5)
    (tmp_path / "training_args.bin").write_bytes(pickle.dumps(config))
    command = [sys.executable, "-c", READ, str(tmp_path / "training_args.bin")]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run(command, env=environment, capture_output=True, text=True).stdout == "3 5\n"


# Without `register()`, or around it.


@pytest.mark.parametrize("trainer_type", [GRPOTrainer, ForkTrainer])
@pytest.mark.parametrize(
    ("rewards", "mrt"),
    [
        ([mrt_accuracy, mrt_progress], {}),
        ([mrt_accuracy], {"mrt_credit": "termination", "mrt_prefix": "online"}),
        (mrt_accuracy, {"mrt_regret_steps": 1}),
    ],
)
def test_another_trainer_refuses_what_it_would_leave_out(tmp_path, trainer_type, rewards, mrt):
    config = MRTConfig(output_dir=str(tmp_path), **SMALL | mrt)
    with pytest.raises(ValueError, match=rf"{trainer_type.__name__} is no MRTTrainer and would leave out mrt_credit"):
        trainer_type(model="there is no model", reward_funcs=rewards, args=config, train_dataset=dataset())


def test_a_callback_that_was_never_bound_refuses(tmp_path, model_path):
    config = GRPOConfig(output_dir=str(tmp_path), **SMALL)
    trainer = ForkTrainer(model_path, letters, config, dataset(), callbacks=[MRTCallback()])
    with pytest.raises(ValueError, match="callbacks: mrt_progress measures for MRTTrainer"):
        trainer.train()


TOO_LATE = """
from trl import GRPOConfig, ModelConfig, TrlParser
config, model = TrlParser((GRPOConfig, ModelConfig)).parse_args_and_config({lenient})
from mrt_plugin import register
register()
"""


def run(*arguments):
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)


def test_registration_after_the_recipe_was_parsed_is_refused(tmp_path):
    (tmp_path / "late.py").write_text(TOO_LATE.format(lenient="fail_with_unknown_args=False" if TRL_1 else ""))
    fields = {"output_dir": "out", "use_cpu": True, "bf16": False, "mrt_credit": "mixed"}
    done = run(tmp_path / "late.py", "--config", write(tmp_path / "config.yaml", fields))
    assert done.returncode == 1
    assert "The recipe was parsed before mrt_plugin was registered" in done.stderr


# The runner.


def test_the_runner_says_what_it_runs():
    for arguments, message in (([], "usage: accelerate launch -m mrt_plugin.run SCRIPT"), (["x.py"], "no file x.py")):
        done = run("-m", "mrt_plugin.run", *arguments)
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.skipif(not TRL_1, reason="the script of trl 0.18 reads reward_funcs wrongly")
def test_the_runner_makes_trls_own_script_train_mrt(tmp_path, model_path):
    import trl.scripts.grpo

    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "train.jsonl").write_text("\n".join([json.dumps(dataset()[0])] * 8))
    out = tmp_path / "out"
    fields = SMALL | {"model_name_or_path": model_path, "dataset_name": str(rows), "output_dir": str(out)}
    fields |= {"mrt_termination": "answer", "mrt_answer_tokens": 4, "save_strategy": "steps", "save_steps": 2}
    fields |= {"logging_steps": 1}
    recipe = write(tmp_path / "config.yaml", fields)
    script = ["-m", "mrt_plugin.run", trl.scripts.grpo.__file__, "--config", recipe]
    script += ["--reward_funcs", "test_registration.letters", "mrt_plugin.rewards.mrt_progress"]
    done = run(*script, "--mrt_credits", "mixed")
    assert "has no field '--mrt_credits'. Did you mean 'mrt_credit'" in done.stderr
    done = run(*script)
    assert done.returncode == 0, done.stderr[-3000:]
    history = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert "mrt/progress_mean" in history[-1]


def test_a_configuration_for_no_trainer_loads_none():
    """Builders of data take some of our fields; TRL's trainer costs seconds to import."""
    code = "import sys; from mrt_plugin.arguments import MRTArguments; MRTArguments(); "
    assert run("-c", f"{code}print('trl.trainer.grpo_trainer' in sys.modules)").stdout == "False\n"


FORK = """
def get_reward_funcs(script_args):
    return [{"accuracy": len}[name] for name in script_args.reward_funcs]
"""


@pytest.mark.parametrize("rewards", [FORK, "from trl import what_no_trl_has"])
def test_a_fork_that_has_moved_on_from_the_pin_knows_our_rewards(tmp_path, rewards):
    """Open-R1 itself cannot be imported beside another trl, which is no reason to refuse TRL's own scripts."""
    files = {"__init__": "", "rewards": rewards, "utils/__init__": "", "utils/callbacks": "CALLBACKS = {}"}
    for name, text in files.items():
        path = tmp_path / "open_r1" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = "from types import SimpleNamespace as S\nfrom mrt_plugin import register\nregister()\n"
    if rewards is FORK:
        script += "from open_r1.rewards import get_reward_funcs\n"
        script += "print([f.__name__ for f in get_reward_funcs(S(reward_funcs=['accuracy', 'mrt_progress']))])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    if rewards is FORK:
        assert done.stdout.strip() == "['len', 'mrt_progress']", done.stderr
    else:
        assert bool(done.returncode) is not TRL_1
        assert TRL_1 or "which cannot be imported" in done.stderr
