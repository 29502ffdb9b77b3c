r"""What a job reads, who writes for it, and where its rows go: the knobs that builders and evaluation share."""

import json
from dataclasses import dataclass, field, make_dataclass
from typing import Literal

from trl import ModelConfig

from ..arguments import check_choices
from ..datasets import DataArguments, GoldArguments
from ..engines.load import ENGINES
from ..engines.policy import MAX_BATCH_TOKENS
from ..upstream.model import DTYPE


_DTYPE = ModelConfig.__dataclass_fields__[DTYPE]
_IN_THEIR_OWN = field(default="auto", metadata=_DTYPE.metadata)
PolicyConfig = make_dataclass("PolicyConfig", [(DTYPE, _DTYPE.type, _IN_THEIR_OWN)], bases=(ModelConfig,))
"""TRL's arguments of a model, which load it as its weights are unless they say otherwise; TRL loads float32."""


@dataclass
class JobArguments(GoldArguments, DataArguments):
    """Where the problems come from, how rollouts are drawn, and where the rows go."""

    dataset_prompt_column: str = field(
        default="problem", metadata={"help": "Column with the problem: its text, or a list of messages."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "System prompt before every problem."})
    output_dir: str = field(default="data/rows", metadata={"help": "Folder for the rows. A rerun resumes."})
    num_generations: int = field(default=4, metadata={"help": "Rollouts for each problem. The paper: 4 to 16."})
    max_completion_length: int = field(
        default=16384, metadata={"help": "Most tokens of a rollout. The paper: 8192 to 16384."}
    )
    temperature: float = field(default=0.7, metadata={"help": "Temperature of the rollouts. The paper: 0.7 or 0.6."})
    top_p: float = field(default=1.0, metadata={"help": "top-p of the rollouts. The paper: 1, or 0.95 at 0.6."})
    seed: int = field(default=42, metadata={"help": "Random seed."})
    batch_size: int = field(default=8, metadata={"help": "Problems in a call to the engine, and in a file."})
    sampler: Literal[("auto", *ENGINES)] = field(
        default="auto",
        metadata={
            "help": "The engine that generates. 'vllm' and 'transformers': in this process. 'server': an OpenAI-style "
            "server at server_url, vLLM or SGLang. 'auto': vllm where it is installed, else transformers."
        },
    )
    server_url: str = field(
        default="http://localhost:8000/v1", metadata={"help": "Address of the server, with its /v1."}
    )
    server_concurrency: int = field(default=64, metadata={"help": "Most requests at a time, one for each prompt."})
    server_timeout: float = field(default=1800.0, metadata={"help": "Most seconds for each of 9 tries of a request."})
    vllm_args: dict | str | None = field(
        default=None,
        metadata={
            "help": "With sampler: vllm, more arguments of vllm.LLM, such as tensor_parallel_size, "
            "gpu_memory_utilization, max_model_len: a mapping, on the command line as JSON."
        },
    )
    max_batch_tokens: int = field(
        default=MAX_BATCH_TOKENS,
        metadata={
            "help": "With sampler: transformers, most tokens whose keys and values are held at once for the traces, "
            "and as many again for what branches off them. Fewer take less memory."
        },
    )
    ray: bool = field(
        default=False,
        metadata={
            "help": "Runs one engine on every `tensor_parallel_size` GPUs (1) of a Ray cluster or, where there are "
            "none, on every `cpus_per_actor` CPUs; otherwise one, in this process."
        },
    )
    cpus_per_actor: int = field(default=1, metadata={"help": "CPUs of an engine on a Ray cluster without GPUs."})

    def __post_init__(self):
        counts = ("num_generations", "max_completion_length", "batch_size", "cpus_per_actor")
        for name in (*counts, "server_concurrency", "max_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.server_timeout <= 0:
            raise ValueError(f"server_timeout must be positive, got {self.server_timeout}.")
        for declaring in type(self).__mro__[:-1]:
            check_choices(self, declaring)
        given = self.vllm_args or {}
        try:
            self.vllm_args = dict(json.loads(given) if isinstance(given, str) else given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"vllm_args must map names of arguments to values, got {given!r}.") from error
        if getattr(self, "dataset_streaming", False):
            raise ValueError("dataset_streaming: a builder reads all problems before it starts. Leave it out.")
