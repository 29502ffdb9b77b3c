r"""Engines behind the sampler's seam, beside the policy in this process: vLLM, and OpenAI-style servers.

Prompts go out in token ids, and token ids come back. Left out: chat endpoints, which would render and tokenise anew,
and log-probabilities, so the `likelihood` estimator needs [`~mrt_plugin.policy_sampler.PolicySampler`].
"""

import asyncio
import os
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from trl import ModelConfig

from .policy_sampler import PolicySampler
from .sampling import Prompt, Sampler, SamplingSettings
from .traces import tokenize
from .upstream import TRL_1


class SamplingError(Exception):
    """
    An engine gave no answer to some prompts of a call, after all its retries.

    Args:
        failed (`dict[int, str]`):
            For the index of each such prompt, why.
    """

    def __init__(self, failed: dict[int, str]):
        self.failed = failed
        super().__init__(
            f"{len(failed)} prompts have no completions, the first because: {next(iter(failed.values()))}"
        )

    def __reduce__(self):
        return type(self), (self.failed,)


class VLLMSampler:
    """
    Samples with vLLM in this process: one call for all prompts, with prefix caching, so that branches share a trace.

    Args:
        model (`str`):
            Name or path of the model.
        **engine_args:
            Of `vllm.LLM`: `dtype`, `revision`, `max_model_len`, `tensor_parallel_size`, ...

    Example:
    ```python
    sampler = VLLMSampler("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", dtype="bfloat16")
    sampler.sample([Prompt(tokenizer("1 + 1 =")["input_ids"])], n=4, settings=SamplingSettings(max_new_tokens=16))
    ```
    """

    def __init__(self, model: str, **engine_args):
        from vllm import LLM

        defaults = {"enable_prefix_caching": True}
        if not torch.cuda.is_available():
            # Compiling takes minutes; and a prompt with a seed that is read in parts ends the engine.
            defaults |= {"enforce_eager": True, "enable_chunked_prefill": False}
        # "vllm": the model's own generation config would bring its top_k and penalties along.
        self.llm = LLM(model, **defaults | {"generation_config": "vllm"} | engine_args)
        self.max_length = self.llm.llm_engine.model_config.max_model_len
        self.stop_token_ids = _generation_eos(model, engine_args.get("revision"))

    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[list[int]]]:
        """As in [`~mrt_plugin.sampling.Sampler`]."""
        from vllm import SamplingParams

        if not prompts:
            return []
        # vLLM draws the n completions of a request with consecutive seeds.
        seeds = [None if settings.seed is None else settings.seed + n * index for index in range(len(prompts))]
        params = [
            SamplingParams(
                n=n if settings.temperature else 1,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                seed=seed,
                stop_token_ids=self.stop_token_ids,
                detokenize=False,
            )
            for seed in seeds
        ]
        outputs = self.llm.generate([{"prompt_token_ids": p.token_ids} for p in prompts], params, use_tqdm=False)
        drawn = [[list(completion.token_ids) for completion in output.outputs] for output in outputs]
        return [group if settings.temperature else group * n for group in drawn]


class ServerSampler:
    """
    Samples from a running server that speaks OpenAI's protocol, such as vLLM's or SGLang's.

    Dropped connections, time-outs, and answers 408, 409, 429 and 5xx are tried again by the `openai` client, with
    backoff and jitter; answers that are garbled or incomplete are tried again here. From a server that does not return
    token ids (an extension of vLLM), the text is tokenised anew.

    Args:
        model (`str`):
            Name of the model, as the server has it.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        base_url (`str`):
            Address of the server, with its `/v1`. A key, if it needs one, is read from `OPENAI_API_KEY`.
        concurrency (`int`, *optional*, defaults to `64`):
            Most requests at a time; each asks for the completions of one prompt.
        timeout (`float`, *optional*, defaults to `1800.0`):
            Most seconds for one try of a request.
        max_retries (`int`, *optional*, defaults to `8`):
            Further tries of a request.

    Raises:
        `ValueError`: If no server answers at the address, or it does not have the model.

    Example:
    ```python
    sampler = ServerSampler("Qwen/Qwen3-1.7B", tokenizer, "http://localhost:8000/v1")
    ```
    """

    def __init__(
        self,
        model: str,
        tokenizer,
        base_url: str,
        concurrency: int = 64,
        timeout: float = 1800.0,
        max_retries: int = 8,
    ):
        import openai

        self.model, self.tokenizer, self.concurrency, self.max_retries = model, tokenizer, concurrency, max_retries
        key = os.environ.get("OPENAI_API_KEY", "none")
        self.connection = {"base_url": base_url, "api_key": key, "timeout": timeout, "max_retries": max_retries}
        try:
            with openai.OpenAI(**self.connection | {"timeout": 30.0, "max_retries": 2}) as client:
                offered = {card.id: card for card in client.models.list()}
        except openai.OpenAIError as error:
            raise ValueError(f"server_url: no list of models from {base_url}: {_reason(error)}") from error
        if model not in offered:
            raise ValueError(f"server_url: {base_url} has the models {sorted(offered)}, not {model!r}.")
        self.max_length = getattr(offered[model], "max_model_len", None)

    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[list[int]]]:
        """
        As in [`~mrt_plugin.sampling.Sampler`].

        Raises:
            [`SamplingError`]: Names the prompts that have no completions.
        """
        return asyncio.run(self._sample(prompts, n, settings))

    async def _sample(self, prompts, n, settings) -> list[list[list[int]]]:
        import openai

        failed: dict[int, str] = {}
        free = asyncio.Semaphore(self.concurrency)

        async def one(client, index: int) -> list[list[int]]:
            async with free:
                try:
                    return await self._request(client, prompts[index], n, settings, index)
                except (openai.OpenAIError, ValueError) as error:
                    failed[index] = _reason(error)
                    return []

        async with openai.AsyncOpenAI(**self.connection) as client:
            drawn = await asyncio.gather(*(one(client, index) for index in range(len(prompts))))
        if failed:
            raise SamplingError(dict(sorted(failed.items())))
        return drawn

    async def _request(self, client, prompt: Prompt, n: int, settings: SamplingSettings, index: int):
        greedy = settings.temperature == 0
        for tries_left in reversed(range(self.max_retries + 1)):
            try:
                answer = await client.completions.create(
                    model=self.model,
                    prompt=prompt.token_ids,
                    n=1 if greedy else n,
                    max_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=None if settings.seed is None else settings.seed + n * index,
                    # Or the server takes these from the model's generation config.
                    extra_body={"return_token_ids": True, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
                )
                drawn = [self._token_ids(choice) for choice in answer.choices or []]
                if len(drawn) != (1 if greedy else n):
                    raise ValueError(f"{len(drawn)} completions where {n} were asked for")
                return drawn * n if greedy else drawn
            except (ValueError, AttributeError, TypeError) as error:  # not JSON, or not of its form
                if not tries_left:
                    raise ValueError(f"garbled answers, the last: {error}") from error
        raise AssertionError

    def _token_ids(self, choice) -> list[int]:
        token_ids = getattr(choice, "token_ids", None)
        if token_ids is not None:
            return list(token_ids)
        ended = [self.tokenizer.eos_token_id] if choice.finish_reason == "stop" else []
        return tokenize(self.tokenizer, choice.text) + ended


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
    dtype = (model_args.dtype if TRL_1 else model_args.torch_dtype) or "auto"
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
        **{"dtype" if TRL_1 else "torch_dtype": dtype},
    )
    return PolicySampler(policy.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)


def _generation_eos(model: str, revision: str | None) -> list[int]:
    """End-of-sequence tokens that only the model's generation config names."""
    try:
        eos = GenerationConfig.from_pretrained(model, revision=revision).eos_token_id
    except OSError:  # it has none
        return []
    return [eos] if isinstance(eos, int) else list(eos or [])


def _reason(error: Exception) -> str:
    """What went wrong, with its cause, on one line."""
    return " ".join(f"{error}{f' ({error.__cause__})' if error.__cause__ else ''}".split())
