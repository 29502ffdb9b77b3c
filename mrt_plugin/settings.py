r"""Which settings go together: the arguments of a trainer -> [`Settings`], or a refusal before the model is loaded.

Refused is what would do nothing, or something else, in silence. What a credit cannot go with follows from its facts
(`REFUSED`), so that one of your own is checked as ours are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper

from .arguments import MRTArguments
from .credit import CREDITS, Credit
from .datasets import check_golds
from .episodes import CLOSE
from .meta_prover import check_termination
from .mistakes import did_you_mean, imported
from .rewards import mrt_accuracy, mrt_length_penalty, mrt_progress
from .upstream.trainer import fsdp_is_on
from .upstream.vllm import ADVICE, prompt_room, takes_token_ids


REFUSED = {  # fact of a credit: what it does, and for each field whether a value is fine, and what another one does
    "per_token": (
        "gives each token its own advantage",
        {
            "use_liger_loss": (lambda value: not value, "takes one for each sequence. Set it to false"),
            "importance_sampling_level": (
                lambda value: value in ("token", None),
                "averages them over the sequence. Set it to token",
            ),
            "off_policy_mask_threshold": (
                lambda value: value is None,
                "masks whole sequences by the sign of one. Leave it out",
            ),
            "loss_type": (
                lambda value: value != "vespo",
                "weighs whole sequences. Use dapo, bnpo, grpo, dr_grpo or cispo",
            ),
        },
    ),
    "mixes_groups": (
        "splits each group in two halves, with two prompts and rewards r and r + alpha (r - J)",
        {
            "num_generations": (lambda value: value % 2 == 0, "is odd"),
            "multi_objective_aggregation": (
                lambda value: value in ("sum_then_normalize", None),
                "normalises r and alpha (r - J) apart. Set it to sum_then_normalize",
            ),
            "vllm_mode": (lambda value: value != "server", "sends one prompt for each group. Set it to colocate"),
        },
    ),
}
UNKNOWN_TO_TRACES = {"top_k": (0, None), "min_p": (None,), "repetition_penalty": (1.0,), "generation_kwargs": (None,)}
"""Sampling arguments that the traces of `mrt_prefix: online` and of `mrt_regret_steps` would not be drawn with."""


@dataclass(frozen=True)
class Settings:
    """What a trainer's arguments come to."""

    mrt: MRTArguments  # the fields of ours
    credit: Credit  # with `auto` resolved
    reward_funcs: list  # of the trainer, with their weights
    reward_weights: list[float] | None

    @property
    def names(self) -> list[str]:
        """Of the reward functions."""
        return [reward_name(reward) for reward in self.reward_funcs]

    @property
    def grades(self) -> bool:
        """Whether answers are graded, for which the data needs solutions."""
        return self.credit.active or any(name.startswith("mrt_") for name in self.names)


def resolve(reward_funcs: list, args, given: dict) -> Settings:
    """
    Resolves the arguments of a trainer: its rewards, its configuration (a plain [`~trl.GRPOConfig`] has the defaults
    of [`~mrt_plugin.MRTArguments`]), and what else it is `given`: the data set, tools, ...

    Raises:
        `ValueError`: If the arguments cannot work together; it says which, why, and what to do.
    """
    mrt = args if isinstance(args, MRTArguments) else MRTArguments()
    credit = find_credit(mrt.mrt_credit, reward_funcs)
    settings = Settings(mrt, credit, *rewards_for(credit, reward_funcs, args.reward_weights, mrt))
    check_credit(settings, args, given)
    check_prefix(settings, args)
    check_columns(settings, args, given)
    check_size(args, given.get("train_dataset"))
    return settings


def reward_name(reward: str | Callable) -> str:
    return getattr(reward, "__name__", str(reward))


def find_credit(name: str, reward_funcs: list) -> Credit:
    """
    The credit mode of a name or of a dotted path; `auto` is `dense` if `mrt_progress` is among the rewards, else plain
    GRPO.

    ```python
    >>> find_credit("auto", [mrt_accuracy, mrt_progress]).name
    'dense'

    ```
    """
    if name == "auto":
        name = "dense" if "mrt_progress" in map(reward_name, reward_funcs) else "none"
    if "." not in name:
        return CREDITS[name]
    credit = imported("mrt_credit", name)
    if not isinstance(credit, Credit):
        raise ValueError(f"mrt_credit: {name} is a {type(credit).__name__}, not a mrt_plugin.credit.Credit.")
    return credit


def rewards_for(
    credit: Credit, reward_funcs: list, weights: list[float] | None, mrt: MRTArguments
) -> tuple[list, list[float] | None]:
    """
    Reward functions and their weights for a credit mode. `mixed` adds `mrt_alpha` x `mrt_progress` to the reward; the
    other modes give progress through the advantages. Without an outcome reward, `mrt_accuracy` is it.

    ```python
    >>> funcs, weights = rewards_for(CREDITS["mixed"], [mrt_progress], None, MRTArguments(mrt_alpha=0.4))
    >>> [reward_name(reward) for reward in funcs], weights
    (['mrt_accuracy', 'mrt_progress'], [1.0, 0.4])

    ```
    """
    penalty = update_wrapper(partial(mrt_length_penalty, alpha=mrt.mrt_length_alpha), mrt_length_penalty)
    reward_funcs = [penalty if reward is mrt_length_penalty else reward for reward in reward_funcs]
    if not credit.active and "mrt_progress" not in map(reward_name, reward_funcs):
        return reward_funcs, weights
    if weights is not None and len(weights) != len(reward_funcs):
        names = ", ".join(map(reward_name, reward_funcs))
        raise ValueError(f"reward_weights has {len(weights)} entries for the rewards {names}; give one for each.")
    pairs = list(zip(reward_funcs, weights or [1.0] * len(reward_funcs), strict=True))
    for reward, weight in pairs:
        if reward_name(reward) == "mrt_progress" and weight != 1:
            raise ValueError(
                f"reward_weights gives mrt_progress {weight}, but progress is weighed by mrt_alpha. Set its entry of "
                f"reward_weights to 1.0, and mrt_alpha: {weight}."
            )
    outcome = [pair for pair in pairs if reward_name(pair[0]) != "mrt_progress"] or [(mrt_accuracy, 1.0)]
    if credit.mixes_groups:
        outcome.append((mrt_progress, mrt.mrt_alpha))
    return tuple(map(list, zip(*outcome, strict=True)))


def check_prefix(settings: Settings, args) -> None:
    """Where rollouts start, and what has to be known for it."""
    mrt, credit = settings.mrt, settings.credit
    prefix, regret = mrt.mrt_prefix, mrt.mrt_regret_steps
    if credit.active or regret:
        tags = CLOSE in check_termination(mrt.mrt_termination, mrt.mrt_estimator)
        if not tags and (credit.measures == "episodes" or prefix != "dataset" or regret):
            raise ValueError(
                f"mrt_termination without {CLOSE} is for rollouts that go on from the column `prefix`; the episodes "
                "of a new trace are found between tags. Set mrt_prefix: dataset, mrt_credit: mixed or termination, "
                "and mrt_regret_steps: 0."
            )
        if fsdp_is_on(args):
            raise ValueError("The meta-prover cannot generate from FSDP shards; use DDP or DeepSpeed.")
        if not args.ds3_gather_for_generation:
            raise ValueError("The meta-prover generates on each rank by itself; set ds3_gather_for_generation: true.")
    if prefix == "online" or regret:
        for name, values in UNKNOWN_TO_TRACES.items():
            if getattr(args, name, None) not in values:
                raise ValueError(
                    f"{name} is set, but the traces of mrt_prefix: online and of mrt_regret_steps are drawn with "
                    "temperature and top_p alone, so they would come from another policy. Leave it out."
                )
    if prefix != "none" and not credit.active:
        active = ", ".join(name for name, one in CREDITS.items() if one.active)
        raise ValueError(f"mrt_prefix: {prefix} needs an mrt_credit ({active}); it is none.")
    if prefix == "none" and credit.needs_prefix:
        raise ValueError(
            f"mrt_credit: {credit.name} on bare problems: {credit.needs_prefix}. Set mrt_prefix: online or dataset."
        )
    if prefix != "none" and args.use_vllm and not takes_token_ids(args):
        raise ValueError(
            f"mrt_prefix: {prefix} gives vLLM prompts in token ids, which trl 0.18 can only do in process and without "
            "tensor parallelism. Set vllm_mode: colocate and vllm_tensor_parallel_size: 1, or use the current trl."
        )
    if prefix == "online":
        check_prompt_room(args)


def check_prompt_room(args, context: int | None = None) -> None:
    """Raises a `ValueError` if vLLM's context is known to have no room for a prompt with an online prefix."""
    most = prompt_room(args, context)
    if most is not None and most <= args.max_completion_length:
        raise ValueError(
            f"mrt_prefix: online makes prompts longer by up to max_completion_length: {args.max_completion_length} "
            f"tokens, and beside a completion vLLM has room for a prompt of {most}. {ADVICE}"
        )


def check_held_out(args) -> None:
    """Raises a `ValueError` if a script of TRL or Open-R1 would not give the trainer the split that regret needs."""
    if isinstance(args, MRTArguments) and args.mrt_regret_steps and args.eval_strategy == "no":
        raise ValueError(
            "mrt_regret_steps measures on the test split, which scripts of TRL and Open-R1 only give to a trainer "
            "that evaluates. Set eval_strategy: steps, and eval_steps beyond the run if only the regret is wanted."
        )


def check_credit(settings: Settings, args, given: dict) -> None:
    """What the facts of the credit rule out."""
    credit, weights = settings.credit, settings.reward_weights
    for fact, (what, fields) in REFUSED.items():
        for name, (fine, otherwise) in fields.items() if getattr(credit, fact) else ():
            value = getattr(args, name, None)
            if not fine(value) and (args.use_vllm or name != "vllm_mode"):
                raise ValueError(f"mrt_credit: {credit.name} {what}, but {name}: {value} {otherwise}.")
    if credit.outcome_alone and (len(settings.reward_funcs) > 1 or weights not in (None, [1.0])):
        raise ValueError(
            f"mrt_credit: {credit.name} subtracts J, the chance of a right answer, from the reward, so that has to be "
            f"the outcome alone, with weight 1; it is {settings.names} with weights {weights}."
        )
    if settings.mrt.mrt_keep_rollouts and credit.measures != "episodes":
        raise ValueError(
            f"mrt_keep_rollouts keeps rollouts with J after each episode, which mrt_credit: {credit.name} does not "
            "measure. Set mrt_credit: dense, or mrt_keep_rollouts: 0."
        )
    for name in ("tools", "environment_factory", "rollout_func"):
        if credit.active and given.get(name):
            raise ValueError(f"mrt_credit: {credit.name} cannot cut a rollout that {name} takes part in.")


def check_columns(settings: Settings, args, given: dict) -> None:
    """What the data has to hold."""
    train, evaluated, prefix = given.get("train_dataset"), given.get("eval_dataset"), settings.mrt.mrt_prefix
    evaluated = list(evaluated.values()) if isinstance(evaluated, dict) else [evaluated]
    golds = ["solution"] * settings.grades
    needed = [("training", train, golds + ["prefix", "prefix_success"] * (prefix == "dataset"))]
    needed += [("evaluation", rows, golds) for rows in evaluated if args.eval_strategy != "no"]
    for which, rows, names in needed:
        columns = getattr(rows, "column_names", None)
        if missing := [name for name in names if columns is not None and name not in columns]:
            raise ValueError(
                f"The {which} data has no column {' and no '.join(map(repr, missing))}, which mrt_credit: "
                f"{settings.credit.name} with mrt_prefix: {prefix} and {settings.names} need; it has {columns}."
                + "".join(did_you_mean(column, missing) for column in columns)
                + " mrt grpo takes another name of the gold answers in dataset_solution_column."
                * ("solution" in missing)
            )
    for rows in [train, *evaluated] * settings.grades:
        check_golds(rows)


def check_size(args, train) -> None:
    """Raises a `ValueError` if the data has fewer problems than one step takes: TRL would drop them all."""
    needed = args.generation_batch_size // args.num_generations
    if hasattr(train, "__len__") and len(train) < needed:  # a stream has no length
        raise ValueError(
            f"The training data has {len(train)} problems, fewer than the {needed} that one step takes "
            f"(generation_batch_size {args.generation_batch_size} / num_generations {args.num_generations}), so "
            "nothing would be trained. Give more problems, or set a smaller per_device_train_batch_size."
        )
