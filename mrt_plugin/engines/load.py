r"""Engines behind the sampler's seam, beside the policy in this process: vLLM, and OpenAI-style servers.

Prompts go out in token ids, and token ids come back. Left out: chat endpoints, which would render and tokenise anew,
and log-probabilities, so the `likelihood` estimator needs [`~mrt_plugin.engines.policy.PolicySampler`].
"""

from importlib.util import find_spec

import torch
from transformers import AutoModelForCausalLM
from trl import ModelConfig

from ..upstream.model import DTYPE
from .policy import PolicySampler
from .sampling import Sampler
from .server import ServerSampler
from .vllm import VLLMSampler


def load_sampler(kind: str, model_args: ModelConfig, tokenizer, server_url: str) -> Sampler:
    """
    The engine that a recipe asks for.

    Args:
        kind (`str`):
            `vllm`, `transformers`, `server`, or `auto`: vllm where it is installed, else transformers.
        model_args ([`~trl.ModelConfig`]):
            The model, its revision and dtype.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        server_url (`str`):
            Address of a `server`.

    Raises:
        `ImportError`: If the engine is not installed; it names the extra.
    """
    model, revision = model_args.model_name_or_path, model_args.model_revision
    dtype = getattr(model_args, DTYPE) or "auto"
    if kind == "auto":
        kind = "vllm" if find_spec("vllm") else "transformers"
    for package, extra in {"vllm": "vllm", "server": "openai"}.items():
        if kind == package and find_spec(extra) is None:
            raise ImportError(f"sampler: {kind} needs the package {extra}: pip install 'mrt-plugin[{package}]'.")
    if kind == "server":
        return ServerSampler(model, tokenizer, server_url)
    if kind == "vllm":
        return VLLMSampler(model, revision=revision, dtype=dtype)
    policy = AutoModelForCausalLM.from_pretrained(
        model,
        revision=revision,
        attn_implementation=model_args.attn_implementation,
        **{DTYPE: dtype},
    )
    return PolicySampler(policy.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)
