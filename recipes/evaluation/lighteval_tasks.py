r"""AMC 2023 and MinervaMATH for lighteval, which has the paper's other benchmarks.

    lighteval vllm "model_name=MODEL,dtype=bfloat16,generation_parameters={max_new_tokens:16384,temperature:0.6}" \
        "amc_2023|0" --custom-tasks recipes/evaluation/lighteval_tasks.py --use-chat-template

The commit of lighteval that Open-R1 pins calls the task `custom|amc_2023|0|0`. In a fork of Open-R1, register it in
`open_r1/utils/evaluation.py` beside the others,

    register_lighteval_task(LIGHTEVAL_TASKS, "custom", "amc_2023", "amc_2023", 0)

and add `--custom-tasks` with this file to the `lighteval` line of `slurm/evaluate.slurm`; then its recipes may ask for
`benchmarks: [amc_2023]`.

Written for lighteval 0.13 and for that commit; where they name a thing differently, both names stand here. The prompt
asks for a box, as lighteval's own tasks do and `mrt evaluate` does not.
"""

from dataclasses import fields

from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc


INSTRUCTION = "Solve this problem step by step, and put the final answer into \\boxed{}."

if hasattr(Metrics, "math_pass_at_1_16n"):  # the commit that Open-R1 pins: a metric for each number of samples
    PASS_AT_1 = Metrics.math_pass_at_1_16n
else:
    PASS_AT_1 = Metrics.pass_at_k_math(sample_params={"k": 1, "n": 16})
METRICS = next(field.name for field in fields(LightevalTaskConfig) if field.name in ("metric", "metrics"))


def ask(row: dict, task_name: str | None = None) -> Doc:
    return Doc(
        task_name=task_name, query=f"{INSTRUCTION}\n\n{row['question']}", choices=[str(row["answer"])], gold_index=0
    )


TASKS_TABLE = [
    LightevalTaskConfig(
        name=name,
        prompt_function=ask,
        hf_repo=repository,
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        generation_size=16384,
        **{METRICS: [PASS_AT_1]},
    )
    for name, repository in {"amc_2023": "math-ai/amc23", "minerva_math": "math-ai/minervamath"}.items()
]
