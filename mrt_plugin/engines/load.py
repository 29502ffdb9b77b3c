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
        **{DTYPE: getattr(model_args, DTYPE) or "auto"},
    )
    policy = policy.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return PolicySampler(policy, tokenizer, args.max_batch_tokens)


def _vllm(args, model_args: ModelConfig, tokenizer) -> VLLMSampler:
    usual = {"revision": model_args.model_revision, "dtype": getattr(model_args, DTYPE) or "auto"}
    return VLLMSampler(model_args.model_name_or_path, tokenizer, **usual | args.vllm_args)


def _server(args, model_args: ModelConfig, tokenizer) -> ServerSampler:
    model, limits = model_args.model_name_or_path, (args.server_concurrency, args.server_timeout)
    return ServerSampler(model, tokenizer, args.server_url, *limits)


ENGINES = {"vllm": (_vllm, "vllm"), "transformers": (_in_process, "transformers"), "server": (_server, "openai")}
"""By the name that `sampler` has in a recipe: how to load the engine, and the package that it needs."""


def load_sampler(args, model_args: ModelConfig, tokenizer) -> Sampler:
    """
    The engine that [`~mrt_plugin.jobs.arguments.JobArguments`] name, with the model and its tokenizer.

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
