"""What a step should cost, in tokens, arithmetic, memory and engine calls, from its sizes alone."""

from dataclasses import dataclass


TERMINATION = 10  # tokens of "</think> ... \boxed{", read behind every prefix


@dataclass(frozen=True)
class Model:
    parameters: float
    layers: int
    heads: int  # of keys and values
    dimension: int  # of a head

    @property
    def cache(self) -> int:
        """Bytes of keys and values of a token, in bf16."""
        return 2 * 2 * self.layers * self.heads * self.dimension


@dataclass(frozen=True)
class Step:
    """Rollouts of a mean length, each with so many episodes, and answers drawn behind each of their G + 1 prefixes."""

    model: Model
    rollouts: int
    tokens: int
    episodes: int
    samples: int
    answer: int

    @property
    def prefixes(self) -> int:
        return self.rollouts * (self.episodes + 1)

    @property
    def drawn(self) -> int:
        """Tokens of answers, or of gold answers that are scored where none are drawn."""
        return self.prefixes * self.answer * max(self.samples, 1)

    @property
    def read(self) -> int:
        """Tokens read to measure J where a trace is read once: the traces and what ends the thinking."""
        return self.rollouts * self.tokens + self.prefixes * TERMINATION

    def arithmetic(self) -> dict[str, float]:
        """PFLOP by 2 a parameter and token: GRPO's update, three passes and one more with checkpointing, and J."""
        flop = 2 * self.model.parameters / 1e15
        return {"update": 4 * flop * self.rollouts * self.tokens, "J": flop * (self.read + self.drawn)}


SMALL, MEDIUM = Model(135e6, 30, 3, 64), Model(1.54e9, 28, 2, 128)
SETTINGS = {
    "H100, 135M, 4,096 tokens, likelihood": Step(SMALL, 8, 4096, 6, 0, 2),
    "H100, 1.5B, 4,096 tokens, likelihood": Step(MEDIUM, 8, 4096, 6, 0, 2),
    "paper: 1.5B, 8 GPUs, likelihood": Step(MEDIUM, 256, 8000, 6, 0, 4),
    "paper: 1.5B, 8 GPUs, 4 short answers": Step(MEDIUM, 256, 8000, 6, 4, 16),
    "paper: 1.5B, 8 GPUs, 4 explained answers": Step(MEDIUM, 256, 8000, 6, 4, 300),
    "64 GPUs: 2,048 rollouts, 4 short answers": Step(MEDIUM, 2048, 8000, 6, 4, 16),
}


def run() -> dict[str, list[dict]]:
    rows = []
    for name, step in SETTINGS.items():
        flop = step.arithmetic()
        written = step.rollouts * step.tokens
        rows.append(
            {
                "setting": name,
                "written, M tokens": written / 1e6,
                "J draws or scores, share of it": step.drawn / written,
                "answers to grade": step.prefixes * step.samples,
                "arithmetic of J, share of the update's": flop["J"] / flop["update"],
                "update, PFLOP": flop["update"],
                "cache of all traces, GiB": written * step.model.cache / 2**30,
            }
        )
    return {"What a step should cost": rows}
