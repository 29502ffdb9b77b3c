"""What is trained: the tasks, the methods and what they vary, and the settings of one training."""

from dataclasses import dataclass, replace
from pathlib import Path


STUDY = Path(__file__).parent
RECIPES = STUDY.parent / "recipes" / "tiny-cpu"
START = STUDY / "start"
RECORDS = STUDY / "records"

ROLLOUTS = 64  # of an update
EVERY = 5  # updates between two evaluations


@dataclass(frozen=True)
class Task:
    """
    Args:
        make (`tuple[str, ...]`):
            The module that writes it, and its arguments.
        warm_up (`int`):
            Steps of the warm start.
        longest (`int`):
            Tokens of a trace of the warm start; what is longer is cut.
        budget (`int`):
            Tokens of a completion.
        episodes (`int`):
            Most episodes to tell apart in a trace.
        steps (`int`):
            Updates of a training.
    """

    make: tuple[str, ...]
    warm_up: int
    longest: int
    budget: int
    episodes: int
    steps: int = 100


TASKS = {
    "revise-hard": Task(("study.tasks.revise", "hard"), 1500, longest=640, budget=480, episodes=10),
    "revise-easy": Task(("study.tasks.revise", "easy"), 1500, longest=480, budget=320, episodes=8),
    "revise-uneven": Task(("study.tasks.revise", "uneven"), 1500, longest=1024, budget=800, episodes=18),
    "revise-hard-4": Task(("study.tasks.revise", "hard-4"), 1500, longest=320, budget=240, episodes=5),
    "revise-hard-14": Task(("study.tasks.revise", "hard-14"), 1500, longest=960, budget=760, episodes=15),
    "search": Task(("study.tasks.search", "--validation", "50"), 600, longest=320, budget=160, episodes=8, steps=150),
    # After half as many steps of the warm start, the model has not learned the sums.
    "clues": Task(("study.tasks.clues",), 2400, longest=320, budget=160, episodes=8, steps=150),
}


@dataclass(frozen=True)
class Method:
    """
    Args:
        recipe (`str`):
            Its recipe.
        rewards (`tuple[tuple[str, float], ...]`):
            Reward functions and their weights; `mrt_accuracy` with weight 0 is there to be logged.
        options (`tuple`):
            What differs from the recipe.
        varies (`str`, *optional*):
            The method that it varies, with whose learning rate and schedule.
    """

    recipe: str
    rewards: tuple[tuple[str, float], ...]
    options: tuple = ()
    varies: str | None = None


OUTCOME = (("mrt_accuracy", 1.0),)
PROGRESS = (*OUTCOME, ("mrt_progress", 1.0))
PENALTY = (("mrt_length_penalty", 1.0), ("mrt_accuracy", 0.0))
NO_OUTCOME = (("mrt_accuracy", 0.0), ("mrt_progress", 1.0))
MIXED, TERMINATION, DENSE = (f"grpo/config_mrt{kind}.yaml" for kind in ("_mixed", "_termination", ""))
EXACT = ("--mrt_estimator", "likelihood")  # with one way to write an answer, its likelihood is J
BASELINE, RIVAL, CHOSEN, BY_EPISODE = "GRPO", "length penalty", "MRT dense", "MRT dense, by episode"
ONLINE = ("MRT mixed, online", "MRT termination, online")

METHODS = {
    BASELINE: Method("grpo/config_outcome.yaml", OUTCOME, EXACT),  # for regret, which is measured in training
    RIVAL: Method("grpo/config_length_penalty.yaml", PENALTY, EXACT),
    CHOSEN: Method(DENSE, PROGRESS, EXACT),
    BY_EPISODE: Method(DENSE, PROGRESS, (*EXACT, "--mrt_horizon", "0")),  # our reading of the authors' credit
    "MRT dense, length penalty": Method(DENSE, (*PENALTY, PROGRESS[1]), EXACT),
    ONLINE[0]: Method(MIXED, PROGRESS, EXACT),
    ONLINE[1]: Method(TERMINATION, OUTCOME, EXACT),
    "MRT mixed, data set": Method(MIXED, PROGRESS, ("--mrt_prefix", "dataset")),
    "MRT termination, data set": Method(TERMINATION, OUTCOME, ("--mrt_prefix", "dataset")),
    "STaR, outcome": Method("sft/config_star.yaml", (), ("--selection", "outcome")),
    "STaR, MRT": Method("sft/config_star.yaml", (), ("--selection", "mrt", "--mrt_samples", "4")),
    "STaR, MRT, 16 samples": Method("sft/config_star.yaml", (), ("--selection", "mrt", "--mrt_samples", "16")),
}


def vary(method: str, *options: str, credit: str | None = None, **changes) -> Method:
    """A variant of a method, by further options, another credit of variants.py, or other rewards."""
    base = METHODS[method]
    options += ("--mrt_credit", f"study.variants.{credit}") if credit else ()
    return replace(base, options=(*base.options, *options), varies=method, **changes)


# Under autocast, float32 weights do not go together with the recipes' static cache.
HALF = ("--bf16", "true", "--cache_implementation", "dynamic")
FOUR = ("--mrt_estimator", "sample", "--mrt_samples", "4")
VARIANTS = {
    **{f"{method}, groups of 4": vary(method, "--num_generations", "4") for method in (BASELINE, CHOSEN)},
    "GRPO, rewards scaled": vary(BASELINE, "--scale_rewards", "group"),
    **{f"length penalty {weight}": vary(RIVAL, "--mrt_length_alpha", weight) for weight in ("0.05", "0.2", "0.4")},
    **{f"alpha {alpha}": vary(CHOSEN, "--mrt_alpha", alpha) for alpha in ("0.2", "0.4", "0.8", "1.6")},
    **{f"horizon {length}": vary(CHOSEN, "--mrt_horizon", length) for length in ("0.5", "2")},
    **{f"J of {n} samples": vary(CHOSEN, "--mrt_estimator", "sample", "--mrt_samples", n) for n in ("1", "4", "16")},
    "MRT dense, interpolated": vary(CHOSEN, credit="INTERPOLATED"),
    "no outcome term": vary(CHOSEN, rewards=NO_OUTCOME),
    "progress shuffled": vary(CHOSEN, credit="SHUFFLED"),
    "progress centred": vary(CHOSEN, credit="CENTRED"),
    "progress scalar": vary(CHOSEN, "--mrt_horizon", "0", credit="SCALAR"),
    "likelihood as outcome": vary(CHOSEN, "--mrt_horizon", "0", credit="SCALAR", rewards=NO_OUTCOME),
    "return to go": vary(CHOSEN, "--mrt_horizon", "0", credit="TO_GO"),
    "return to go, baseline": vary(CHOSEN, "--mrt_horizon", "0", credit="TO_GO_CENTRED"),
    **{f"{method}, bf16": vary(method, *HALF) for method in (BASELINE, CHOSEN, *ONLINE)},
    "MRT dense, 4 samples, bf16": vary(CHOSEN, *FOUR, *HALF),
    **{f"{method}, bf16 weights": vary(method, *HALF, "--dtype", "bfloat16") for method in (BASELINE, CHOSEN)},
    **{
        f"by episode, {name}": vary(BY_EPISODE, credit=name.upper().replace("-", "_"))
        for name in ("centred", "to-go", "spread", "with-answer")
    },
}


def varied(method: str) -> str:
    """The method that a variant varies, and else the method itself."""
    return VARIANTS[method].varies if method in VARIANTS else method


SCHEDULES = {"constant": "constant_with_warmup", "cosine": "cosine"}  # both after the recipes' five steps of warm-up


@dataclass(frozen=True)
class Setting:
    """One training."""

    task: str
    method: str
    learning_rate: float
    schedule: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        words = "-".join(self.method.lower().replace(",", "").split())
        return f"{self.task}-{words}-{self.learning_rate:g}-{self.schedule}-{self.seed}-{self.steps}"

    @property
    def arguments(self) -> list[str]:
        """The recipe, and what differs from it."""
        method, task = {**METHODS, **VARIANTS}[self.method], TASKS[self.task]
        rewards = dict(method.rewards)
        if "termination" not in method.recipe:  # which takes the outcome alone
            rewards[f"study.rewards.within_{task.budget // 4}"] = 0.0
        if method.recipe.startswith("sft"):
            return [method.recipe, *method.options]
        budget = ["--max_completion_length", task.budget, "--mrt_episodes", task.episodes]
        schedule = ["--lr_scheduler_type", SCHEDULES[self.schedule]]
        named = ["--reward_funcs", *rewards, "--reward_weights", *rewards.values()]
        return [*map(str, [method.recipe, *budget, *schedule, *named, *method.options])]
