"""
The picture of the method, at the top of the README: one rollout of the demo's warm start, and what MRT makes of it.

    python -m study.picture                                  # docs/figures/method-light.svg and method-dark.svg
    python -m study.picture runs/demo/evaluation/warm-start  # of a folder that mrt evaluate wrote

Without a folder, the demo's evaluation is run first. The rollout is the one with the greatest loss among those that
are right, fit the width, and have an episode of each kind: gain, loss and idle. Its credit is what `mrt_credit: dense`
gives it in a step of nothing but the rollouts of its problem.
"""

import argparse
import textwrap
from html import escape
from pathlib import Path

import numpy as np

from mrt_plugin.analysis import evaluate
from mrt_plugin.analysis.view import IDLE, Shown, episode_ends, load, pieces
from mrt_plugin.credit import Step, dense
from mrt_plugin.progress import progress

from .settings import RECIPES, START


COLORS = ("ink", "faint", "line", "gain", "loss", "idle")
LIGHT = dict(zip(COLORS, ("#1c1e21", "#5f656c", "#dedfda", "#009e73", "#d55e00", "#b9bdc2"), strict=True))
DARK = dict(zip(COLORS, ("#e6e7e9", "#9ba2aa", "#3a3f46", "#2fc296", "#ff8347", "#5d646c"), strict=True))
MONO = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"'
BOLD = 'font-weight="600"'

WIDTH, LEFT, RIGHT = 960, 8, 946
LONGEST = 215
"""Tokens of a rollout whose text can be read in this width."""


def pick(run: Shown) -> tuple[dict, list[dict]]:
    """The rollout that is drawn, and the rollouts of its problem."""
    found = []
    for group in run.problems.values():
        for row in group:
            gains = progress(row["success_probability"])
            kinds = {kind(gain) for gain in gains}
            if row["right"] and row["tokens"] <= LONGEST and kinds == {"gain", "loss", "idle"}:
                found.append((gains.min(), row["problem_id"], row["stream"], row, group))
    if not found:
        raise ValueError(
            f"{run.name} has no rollout of at most {LONGEST} tokens with a gain, a loss and an idle episode."
        )
    *_, row, group = min(found, key=lambda one: one[:3])
    return row, group


def kind(gain: float) -> str:
    return "idle" if abs(gain) < IDLE else "gain" if gain > 0 else "loss"


def signed(value: float) -> str:
    return ("±" if abs(value) < 0.005 else "−" if value < 0 else "+") + f"{abs(value):.2f}"


class Drawing:
    """An SVG in one palette, drawn from top to bottom; x is in tokens."""

    def __init__(self, palette: dict[str, str], tokens: int):
        self.palette, self.scale, self.parts = palette, (RIGHT - LEFT) / tokens, []

    def x(self, token: float) -> float:
        return LEFT + token * self.scale

    def text(self, token: float, y: float, words: str, color="ink", size=13, more="") -> None:
        fill, x = self.palette[color], self.x(token)
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}" font-size="{size}" {more}>{escape(words)}</text>'
        )

    def line(self, points: list[tuple[float, float]], color="line", width=1.0, more="") -> None:
        at = " ".join(f"{self.x(token):.1f},{y:.1f}" for token, y in points)
        self.parts.append(
            f'<polyline points="{at}" fill="none" stroke="{self.palette[color]}" stroke-width="{width}" {more}/>'
        )

    def box(self, token: float, tokens: float, y: float, height: float, color: str, more="", gap=0.0) -> None:
        self.parts.append(
            f'<rect x="{self.x(token):.1f}" y="{y:.1f}" width="{tokens * self.scale - gap:.1f}" height="{height:.1f}" '
            f'fill="{self.palette[color]}" {more}/>'
        )

    def blocks(self, token: int, tokens: int, y: float, height: float, color: str) -> None:
        """One for each token."""
        dashes = f'stroke-dasharray="{self.scale - 1:.3f} 1"'
        self.line([(token, y + height / 2), (token + tokens, y + height / 2)], color, height, dashes)

    def dot(self, token: float, y: float) -> None:
        self.parts.append(f'<circle cx="{self.x(token):.1f}" cy="{y:.1f}" r="4" fill="{self.palette["ink"]}"/>')


def draw(row: dict, group: list[dict], settings: dict, palette: dict[str, str]) -> str:
    """The picture of a rollout, as SVG."""
    rewards = np.array([float(one["right"]) for one in group])
    step = Step(
        outcome=rewards - rewards.mean(),
        rewards=rewards,
        success=[np.array(one["success_probability"]) for one in group],
        credit_ends=[episode_ends(one) for one in group],
        width=max(one["tokens"] for one in group),
        group_size=len(group),
    )
    number, tokens = group.index(row), row["tokens"]
    outcome, gains = step.outcome[number], progress(row["success_probability"])
    picture = Drawing(palette, tokens)
    draw_episodes(picture, row, settings)
    draw_success(picture, step.success[number], step.credit_ends[number], tokens)
    draw_credit(picture, dense(step)[number, :tokens])
    right = f"all {len(group)}" if rewards.all() else f"{rewards.sum():.0f} of {len(group)}"
    told = f"GRPO: {right} rollouts of this problem are right, so each token gets the same {outcome:.2f}"
    picture.text(0, 446, told, "faint")
    picture.blocks(0, tokens, 455, 3, "idle")
    title = (
        f"A rollout of {len(gains)} episodes with progress {', '.join(map(signed, gains))}; MRT credits each token "
        f"with the progress of the episodes that end soon after it, while GRPO gives all of them {outcome:.2f}."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 466" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
        + "\n".join([f"<title>{escape(title)}</title>", *picture.parts, "</svg>\n"])
    )


def draw_episodes(picture: Drawing, row: dict, settings: dict) -> None:
    """The problem, the text of each episode, and a block for each token."""
    ends, tokens, texts = episode_ends(row), row["tokens"], pieces(row, settings)
    kinds = [kind(gain) for gain in progress(row["success_probability"])]
    picture.text(0, 17, row["problem"], size=15, more=f"{MONO} {BOLD}")
    about = "one rollout: its thinking in episodes, then its answer"
    picture.text(tokens, 17, about, "faint", more='text-anchor="end"')
    for j, (begin, end) in enumerate(zip(ends, [*ends[1:], tokens], strict=True)):
        name, written, color = "answer", row["solution"], "line"
        if j < len(kinds):
            name, written, color = f"episode {j + 1}", texts[j + 1].strip(), kinds[j]
        picture.box(begin, end - begin, 28, 112, color, 'opacity="0.16" rx="4"', gap=3)
        picture.text(begin + 1.3, 45, name, "faint", 12)
        fits = max(int((end - begin) * picture.scale / 6.7), 8)
        lines = [line for paragraph in written.split("\n\n") for line in textwrap.wrap(paragraph, fits)]
        for index, line in enumerate(lines):
            picture.text(begin + 1.3, 63 + 15 * index, line, size=11, more=MONO)
        picture.blocks(begin, end - begin, 145, 14, color)


def draw_success(picture: Drawing, success: np.ndarray, ends: list[int], tokens: int) -> None:
    """J at each boundary, and the progress of each episode."""
    top, bottom = 204, 304
    height = bottom - (bottom - top) * success
    about = "J: the chance of a right answer if the model is made to stop there. What an episode adds is its progress"
    picture.text(0, 186, about, "faint")
    for value, y in ((0, bottom), (1, top)):
        picture.line([(0, y), (tokens, y)])
        picture.text(tokens, y - 4, f"{value}", "faint", 11, 'text-anchor="end"')
    for j, gain in enumerate(progress(success)):
        begin, end, upper, color = ends[j], ends[j + 1], min(height[j : j + 2]), kind(gain)
        picture.box(begin, end - begin, upper, abs(height[j + 1] - height[j]), color, 'opacity="0.25"')
        y = upper - 9 if upper > (top + bottom) / 2 else upper + 20
        picture.text(begin + 4, y, f"{signed(gain)} {color}", "faint" if color == "idle" else color, 14, BOLD)
    picture.line([*zip(ends, height, strict=True), (tokens, height[-1])], "ink", 1.6)
    for end, y in zip(ends, height, strict=True):
        picture.line([(end, 161), (end, 171)], "faint", 1.5)
        picture.line([(end, 192), (end, y)], "faint", 1, 'stroke-dasharray="2 3"')
        picture.dot(end, y)


def draw_credit(picture: Drawing, credit: np.ndarray) -> None:
    """A bar for each token, up or down."""
    about = "MRT adds to a token the progress of the episodes that end within the next h tokens (h: their mean length)"
    picture.text(0, 333, about, "faint")
    base, unit = 414, 66 / max(np.abs(credit).max(), 1e-9)
    picture.line([(0, base), (len(credit), base)])
    for color, bars in (("gain", credit.clip(min=0)), ("loss", credit.clip(max=0))):
        path = " ".join(
            f"M{picture.x(token):.1f},{base}v{-value * unit:.1f}h{picture.scale - 1:.1f}V{base}"
            for token, value in enumerate(bars)
            if abs(value * unit) >= 0.1
        )
        picture.parts.append(f'<path d="{path}" fill="{picture.palette[color]}"/>')


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m study.picture", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", nargs="?", type=Path, help="folder of mrt evaluate")
    parser.add_argument("--output", type=Path, default=Path("docs/figures"), help="folder of the two pictures")
    args = parser.parse_args(arguments)
    folder = args.run or Path("runs/picture")
    if args.run is None:
        start = START / "revise-hard"
        recipe = ["--config", str(RECIPES / "evaluation" / "regret.yaml"), "--output_dir", str(folder)]
        model = ["--model_name_or_path", str(start / "warm-start"), "--dataset_name", str(start / "problems")]
        evaluate.run([*recipe, *model])
    [run] = load([folder])
    row, group = pick(run)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, palette in (("light", LIGHT), ("dark", DARK)):
        path = args.output / f"method-{name}.svg"
        path.write_text(draw(row, group, run.settings, palette), encoding="utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
