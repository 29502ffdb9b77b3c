"""The likelihood estimator beside sampling: how alike they rank prefixes, and what a training step costs with each."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import allocation
import numpy as np
from datasets import load_dataset
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer

from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Prompt, SamplingSettings
from mrt_plugin.episodes import CUES
from mrt_plugin.meta_prover import GoldLikelihood, MetaProver, SampledAnswers
from mrt_plugin.tokens import tokenize
from mrt_plugin.traces import segment


DRAWS = 64
STEPS = 8
RECIPE = "recipes/tiny-cpu/grpo/config_mrt.yaml"
VARIANTS = {  # of a training step: arguments, and at most how many times plain GRPO's
    "GRPO": (["--mrt_credit", "none"], None),
    "MRT dense, likelihood": (["--mrt_estimator", "likelihood", "--mrt_episodes", "6"], 1.3),
    "MRT dense, 6 episodes, 4 branches": (["--mrt_episodes", "6", "--mrt_samples", "4"], 2.0),
}


def measure(model_path: str, problems: str, split: str, answer_tokens: int, count: int = 24) -> list[list[np.ndarray]]:
    """The success probabilities of some rollouts, by likelihood, and as the share of 64 draws."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    sampler = PolicySampler(AutoModelForCausalLM.from_pretrained(model_path).eval(), tokenizer)
    rows = load_dataset(problems, split=split).select(range(count))
    messages = [row if isinstance(row, list) else [{"role": "user", "content": row}] for row in rows["problem"]]
    texts = [tokenizer.apply_chat_template(m, tokenize=False, add_generation_prompt=True) for m in messages]
    prompts = [tokenize(tokenizer, text) for text in texts]
    drawn = sampler.sample([Prompt(ids) for ids in prompts], 1, SamplingSettings(160, seed=0))
    traces = [
        segment(tokenizer, prompt, completion.token_ids, solution, 6, CUES)
        for prompt, [completion], solution in zip(prompts, drawn, rows["solution"], strict=True)
    ]
    answers = SamplingSettings(answer_tokens, seed=1)
    return [
        [measurement.success_probability for measurement in prover.success_probabilities(traces)]
        for prover in (
            MetaProver(sampler, GoldLikelihood(), "answer"),
            MetaProver(sampler, SampledAnswers(DRAWS, answers), "answer"),
        )
    ]


def agreement(measured: list[list[np.ndarray]]) -> dict:
    likelihood, share = map(np.concatenate, measured)
    return {
        "prefixes": len(share),
        f"Spearman, {DRAWS} draws": float(spearmanr(likelihood, share).statistic),
        "bias": float(np.mean(likelihood - share)),
        "mean distance": float(np.mean(np.abs(likelihood - share))),
        "of which noise of the draws": float(np.mean(np.sqrt(2 / np.pi * share * (1 - share) / DRAWS))),
    }


def steps() -> list[dict]:
    """Seconds of a training step of the demo, the first one left out by the difference of two runs."""
    rows = []
    for name, (arguments, goal) in VARIANTS.items():
        short, long = (_runtime(arguments, count) for count in (2, 2 + STEPS))
        row = {"what": name, "seconds a step": (long - short) / STEPS}
        if goal:
            row |= {"times GRPO's": row["seconds a step"] / rows[0]["seconds a step"], "goal, at most": goal}
        rows.append(row)
    return rows


def _runtime(arguments: list[str], count: int) -> float:
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "mrt_plugin.cli", "grpo", "--config", RECIPE, "--output_dir", output]
        subprocess.run([*command, "--max_steps", str(count), *arguments], check=True, capture_output=True)
        history = json.loads((Path(output) / "trainer_state.json").read_text())["log_history"]
    return next(entry["train_runtime"] for entry in history if "train_runtime" in entry)


def run() -> dict[str, list[dict]]:
    if not Path("runs/demo/mrt").exists():
        print("no runs/demo: the estimators are not measured; make demo first")
        return {}
    demo = {
        f"runs/demo/{model}": measure(f"runs/demo/{model}", "runs/demo/problems", "test", answer_tokens=4)
        for model in ("warm-start", "mrt")
    }
    smoke = {}
    if Path("runs/smoke/steps").exists():
        smoke["runs/smoke/model"] = measure("runs/smoke/model", "runs/smoke/problems", "train", 8, count=12)
    return {
        "Likelihood against sampling": [{"model": model} | agreement(both) for model, both in (demo | smoke).items()],
        "A training step of the demo": steps(),
        **{
            f"Branches where they are needed, {model}": allocation.run([share for share in shares if len(share) > 1])
            for model, (_, shares) in demo.items()
        },
    }
