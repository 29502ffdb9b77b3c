r"""Problems as the builders take them, and which of them rows can be built from."""

import hashlib
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..datasets import column_of, conversation, load_splits
from ..engines.sampling import Sampler
from ..golds import gold_text, without_gold
from ..grading import Verdict, grade
from ..mistakes import check_known
from ..tokens import tokenize


logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Problem:
    """A problem with its gold answer, as messages that end in the user's turn."""

    id: str
    messages: list[dict]
    solution: str

    @property
    def text(self) -> str:
        return self.messages[-1]["content"]

    def prompt_ids(self, tokenizer) -> list[int]:
        return tokenize(tokenizer, self.rendered(tokenizer))

    def rendered(self, tokenizer) -> str:
        return tokenizer.apply_chat_template(self.messages, tokenize=False, add_generation_prompt=True)

    def random(self, seed: int) -> random.Random:
        """A generator of its own, so that its draws do not depend on what stands beside it in a batch."""
        return random.Random(f"{seed}-{self.id}")


def read_problems(args) -> list[Problem]:
    """
    The problems of the training split that [`~mrt_plugin.jobs.arguments.JobArguments`] name, each once.

    Raises:
        `ValueError`: If there is none, or a column is missing.
    """
    rows, _ = load_splits(args, args.dataset_prompt_column, wants_eval=False)
    check_known("dataset_solution_column", [args.dataset_solution_column], rows.column_names)
    golds = column_of(rows, args.dataset_solution_column)
    if missing := without_gold(golds, args.dataset_solution_column):
        logger.warning("%s. These problems are left out.", missing)
    problems = {}
    for problem, gold in zip(column_of(rows, args.dataset_prompt_column), golds, strict=True):
        solution = gold_text(gold) or ""
        messages = conversation(problem)
        identity = hashlib.sha256(repr((messages, solution)).encode()).hexdigest()[:16]
        problems.setdefault(identity, Problem(identity, conversation(problem, args.system_prompt), solution))
    if not problems:
        raise ValueError(f"{args.dataset_name or 'dataset_mixture'} has no rows in {args.dataset_train_split!r}.")
    if len(problems) < len(rows):
        logger.warning("%d of %d rows repeat a problem and are left out.", len(rows) - len(problems), len(rows))
    return list(problems.values())


def usable(
    problems: Sequence[Problem], sampler: Sampler, room: dict[str, int]
) -> tuple[dict[Problem, list[int]], dict[str, str | None]]:
    """
    Prompt ids of the problems that rows can be built from; of the others the reason. `room` says for each setting how
    many tokens are to fit behind a prompt.

    Raises:
        `ValueError`: If the model's context has no room for any prompt.
    """
    golds = grade(["\\boxed{}"] * len(problems), [problem.solution for problem in problems])
    most = math.inf if sampler.max_length is None else sampler.max_length - sum(room.values())
    if most <= 0:
        shares = ", ".join(f"{setting}: {tokens}" for setting, tokens in room.items())
        raise ValueError(
            f"What is drawn takes up to {sum(room.values())} tokens ({shares}), but the model's context has "
            f"{sampler.max_length}. Lower {max(room, key=room.get)}."
        )
    prompts, dropped = {}, {}
    for problem, gold in zip(problems, golds, strict=True):
        if not all(isinstance(message["content"], str) for message in problem.messages):
            dropped[problem.id] = "the problem is not all text"
        elif not problem.text.strip():
            dropped[problem.id] = "the problem is empty"
        elif gold is Verdict.UNPARSEABLE_GOLD:
            dropped[problem.id] = "the gold answer cannot be parsed"
        elif len(prompt_ids := problem.prompt_ids(sampler.tokenizer)) > most:
            dropped[problem.id] = f"the prompt has more than the {most} tokens that {', '.join(room)} leave"
        else:
            prompts[problem] = prompt_ids
    return prompts, dropped
