r"""A builder's batches on a Ray cluster: one policy for each actor, rows written by the process that asked."""

import pickle
from collections.abc import Callable, Iterator

from .batch import attempt, load_policy


class _Actor:
    def __init__(self, build: Callable, args, model_args, mrt_args):
        self.build, self.args, self.mrt_args = build, args, mrt_args
        self.policy = load_policy(args, model_args)

    def __call__(self, item: dict) -> dict:
        seed, batch = pickle.loads(item["work"])
        return {"result": pickle.dumps(attempt(self.build, batch, self.policy, seed, self.args, self.mrt_args))}


def results(build: Callable, todo: list, args, model_args, mrt_args) -> Iterator[tuple]:
    """What became of each batch, as [`~mrt_plugin.jobs.batch.attempt`] gives it, in any order."""
    import ray
    import ray.data

    ray.init(ignore_reinit_error=True)
    cluster = ray.cluster_resources()
    gpus = int(cluster.get("GPU", 0))
    place = {"num_gpus": 1} if gpus else {"num_cpus": args.cpus_per_actor}
    actors = min(gpus or int(cluster["CPU"]) // args.cpus_per_actor, len(todo))
    if actors < 1:
        raise ValueError(
            f"cpus_per_actor: {args.cpus_per_actor} is more than the {int(cluster['CPU'])} CPUs there are."
        )
    # Pickled, because Arrow would turn the rows' lists and missing values into its own.
    work = ray.data.from_items([{"work": pickle.dumps(item)} for item in todo], override_num_blocks=len(todo))
    done = work.map(_Actor, fn_constructor_args=(build, args, model_args, mrt_args), concurrency=actors, **place)
    for row in done.iter_rows():
        yield pickle.loads(row["result"])
