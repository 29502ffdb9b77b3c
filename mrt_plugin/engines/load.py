r"""The engine that a recipe asks for. To add one takes a file beside this one, and a line in [`ENGINES`]."""

from importlib.util import find_spec

import torch
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from ..upstream.model import DTYPE
from .policy import PolicySampler
from .sampling import Sampler
from .server import ServerSampler
from .vllm import VLLMSampler


def _in_process(args, model_args: ModelConfig, tokenizer) -> PolicySampler:
    policy = AutoModelForCausalLM.from_pretrained(
        model_args.model_name_or_path,
        revision=model_args.model_revision,
        attn_implementation=model_args.attn_implementation,
        **{DTYPE: _dtype(model_args)},
    )
    policy = policy.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return PolicySampler(policy, tokenizer, args.max_batch_tokens)


def _vllm(args, model_args: ModelConfig, tokenizer) -> VLLMSampler:
    usual = {"revision": model_args.model_revision, "dtype": _dtype(model_args)}
    return VLLMSampler(model_args.model_name_or_path, tokenizer, **usual | args.vllm_args)


def _server(args, model_args: ModelConfig, tokenizer) -> ServerSampler:
    return ServerSampler(
        model_args.model_name_or_path, tokenizer, args.server_url, args.server_concurrency, args.server_timeout
    )


def _dtype(model_args: ModelConfig) -> str:
    return getattr(model_args, DTYPE) or "auto"


ENGINES = {"vllm": (_vllm, "vllm"), "transformers": (_in_process, "transformers"), "server": (_server, "openai")}
"""By the name that `sampler` has in a recipe: how to load the engine, and the package that it needs."""


def load_sampler(args, model_args: ModelConfig, tokenizer) -> Sampler:
    """
    The engine that a recipe asks for.

    Args:
        args ([`~mrt_plugin.jobs.arguments.JobArguments`]):
            Which engine, and how it is to run.
        model_args ([`~trl.ModelConfig`]):
            The model, its revision and dtype.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.

    Raises:
        `ImportError`: If the engine is not installed; it names the extra.
    """
    kind = args.sampler
    if kind == "auto":
        kind = "vllm" if find_spec("vllm") else "transformers"
    load, package = ENGINES[kind]
    if find_spec(package) is None:
        raise ImportError(f"sampler: {kind} needs the package {package}: pip install 'mrt-plugin[{kind}]'.")
    return load(args, model_args, tokenizer)
