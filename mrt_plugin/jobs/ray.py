r"""A builder's batches on a Ray cluster: one policy for each actor, rows written by the process that asked."""

import pickle
from collections.abc import Callable, Iterator

from ..mistakes import Mistake, is_mistake, sentence
from .batch import build_batch, load_policy


class _Actor:
    def __init__(self, build: Callable, args, model_args, mrt_args):
        self.build, self.args, self.model_args, self.mrt_args = build, args, model_args, mrt_args
        self.sampler = None

    def __call__(self, item: dict) -> dict:
        seed, batch = pickle.loads(item["work"])
        try:
            self.sampler = self.sampler or load_policy(self.args, self.model_args)
            result = build_batch(self.build, batch, self.sampler, seed, self.args, self.mrt_args)
        except Exception as error:  # which Ray would hand on with its own traceback
            if not is_mistake(error):
                raise
            result = Mistake(sentence(error))
        return {"result": pickle.dumps(result)}


def results(build: Callable, todo: list, args, model_args, mrt_args) -> Iterator[tuple]:
    """Each batch as [`~mrt_plugin.jobs.batch.build_batch`] gives it, in any order."""
    import ray
    import ray.data

    ray.init(ignore_reinit_error=True)
    cluster = ray.cluster_resources()
    kind, field, each = "CPU", "cpus_per_actor", args.cpus_per_actor
    if cluster.get("GPU"):
        kind, field, each = "GPU", "vllm_args: tensor_parallel_size", args.vllm_args.get("tensor_parallel_size", 1)
    actors = min(int(cluster[kind]) // each, len(todo))
    if actors < 1:
        raise ValueError(f"{field}: {each} is more than the {int(cluster[kind])} {kind}s there are.")
    place = {f"num_{kind.lower()}s": each}
    # Pickled, because Arrow would turn the rows' lists and missing values into its own.
    work = ray.data.from_items([{"work": pickle.dumps(item)} for item in todo], override_num_blocks=len(todo))
    done = work.map(_Actor, fn_constructor_args=(build, args, model_args, mrt_args), concurrency=actors, **place)
    for row in done.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, Mistake):
            raise result
        yield result
