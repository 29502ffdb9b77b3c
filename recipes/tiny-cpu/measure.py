"""
The demo's table and figure: what each model does on held-out problems, at several token budgets.

    python recipes/tiny-cpu/measure.py --runs runs/demo/warm-start runs/demo/grpo runs/demo/mrt

Every model writes rollouts for the test problems, of at most twice the tokens that it was trained with, and is forced
to answer after each of its episodes. Accuracy counts a rollout that is longer than the budget as wrong. Normalised
regret is the area between an oracle and the model's success probability, from 0 to the budget: lower is better.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from datasets import load_dataset
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from mrt_plugin import MetaProver, PolicySampler
from mrt_plugin.analysis.regret import Rollout, accuracy_at, regret_at, roll_out
from mrt_plugin.sampling import SamplingSettings


COLORS = ["#777777", "#0072B2", "#D55E00", "#009E73"]  # told apart by the colour-blind, and in print


def measure(run: Path, problems, n: int, max_new_tokens: int, samples: int, seed: int) -> list[Rollout]:
    """`n` rollouts for each problem, and the success probability at each of their prefixes."""
    tokenizer = AutoTokenizer.from_pretrained(run)
    policy = PolicySampler(AutoModelForCausalLM.from_pretrained(run).eval(), tokenizer)
    answers = SamplingSettings(max_new_tokens=8, temperature=0.7, seed=seed)
    meta_prover = MetaProver(policy, tokenizer, termination="answer", samples=samples, settings=answers)
    messages = [[{"role": "user", "content": problem}] for problem in problems["problem"]]
    prompts = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    settings = SamplingSettings(max_new_tokens, seed=seed)
    return roll_out(meta_prover, prompts, problems["solution"], settings, n, episodes=max_new_tokens)


def print_table(rollouts: dict[str, list[Rollout]], budgets: list[int]) -> None:
    columns = [f"acc@{budget}" for budget in budgets] + [f"regret@{budget}" for budget in budgets] + ["tokens"]
    print(f"\n| {'model':10} | {' | '.join(columns)} |\n|{'-' * 12}|{'|'.join('-' * (len(c) + 2) for c in columns)}|")
    for name, mine in rollouts.items():
        cells = [f"{accuracy_at(mine, budget):.3f}" for budget in budgets]
        cells += [f"{regret_at(mine, budget):.3f}" for budget in budgets]
        cells += [f"{np.mean([rollout.tokens for rollout in mine]):.0f}"]
        print(f"| {name:10} | {' | '.join(c.rjust(len(h)) for c, h in zip(cells, columns, strict=True))} |")


def draw(rollouts: dict[str, list[Rollout]], trained: int, path: Path) -> None:
    """Normalised regret against the token budget, as the paper draws it, with what lies beyond training shaded."""
    grid = np.linspace(trained / 8, 2 * trained, 60)
    figure, axes = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    axes.axvspan(trained, 2 * trained, color="0.93", lw=0, label="beyond the trained budget")
    for (name, mine), color, style in zip(rollouts.items(), COLORS, ["--", "-.", "-", ":"], strict=False):
        axes.plot(grid, [regret_at(mine, budget) for budget in grid], style, color=color, lw=2, label=name)
    axes.set(xlabel="token budget", ylabel="normalised regret", xlim=(grid[0], grid[-1]))
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="model folders; the name is the last part")
    parser.add_argument("--problems", default="runs/demo/problems", help="data set with a `test` split")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), help="folder of regret.png and rollouts.json"
    )
    parser.add_argument("--n", type=int, default=2, help="rollouts for each problem")
    parser.add_argument("--trained", type=int, default=160, help="completion tokens that the runs were trained with")
    parser.add_argument("--samples", type=int, default=8, help="forced answers after each prefix")
    parser.add_argument("--limit", type=int, help="how many test problems to take; all by default")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    problems = load_dataset(args.problems, split="test")
    problems = problems.select(range(min(args.limit or len(problems), len(problems))))
    rollouts = {
        run.name: measure(run, problems, args.n, 2 * args.trained, args.samples, args.seed)
        for run in tqdm(args.runs, desc="measuring", unit="model")
    }
    print_table(rollouts, [args.trained // 2, args.trained, 2 * args.trained])
    draw(rollouts, args.trained, args.output / "regret.png")
    rows = {name: [vars(rollout) for rollout in mine] for name, mine in rollouts.items()}
    (args.output / "rollouts.json").write_text(json.dumps(rows))
    print(f"\nwrote {args.output / 'regret.png'}")


if __name__ == "__main__":
    main()
