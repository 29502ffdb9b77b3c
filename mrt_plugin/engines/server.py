r"""Servers that speak OpenAI's protocol, behind the sampler's seam.

Prompts go out in token ids, and token ids come back. Left out: chat endpoints, which would render and tokenise anew.
"""

import asyncio
import logging
import math
import os
from collections.abc import Sequence

from ..tokens import tokenize
from .sampling import Completion, Prompt, SamplingError, SamplingSettings


logger = logging.getLogger(__name__)

RETRIES = 8
"""Further tries of a request that failed."""


class ServerSampler:
    """
    Samples from a running server that speaks OpenAI's protocol, such as vLLM's or SGLang's.

    The `openai` client tries dropped connections, time-outs, and answers 408, 409, 429 and 5xx again, with backoff and
    jitter; garbled answers are tried again here. A server that gives fewer completions than it is asked for, as one
    that ignores `n`, is asked for the rest. Where one returns no token ids (an extension of vLLM), the text is
    tokenised anew.

    Args:
        model (`str`): Name of the model, as the server has it.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Its tokenizer.
        base_url (`str`): Address of the server, with its `/v1`. A key, if it needs one, is read from `OPENAI_API_KEY`.
        concurrency (`int`): Most requests at a time; each asks for the completions of one prompt.
        timeout (`float`): Most seconds for one try of a request.

    Raises:
        `ValueError`: If no server answers at the address, or it does not have the model.

    ```python
    sampler = ServerSampler("Qwen/Qwen3-1.7B", tokenizer, "http://localhost:8000/v1", concurrency=64, timeout=1800)
    ```
    """

    scores = False

    def __init__(self, model: str, tokenizer, base_url: str, concurrency: int, timeout: float):
        import openai

        self.model, self.tokenizer, self.concurrency = model, tokenizer, concurrency
        key = os.environ.get("OPENAI_API_KEY", "none")
        self.connection = {"base_url": base_url, "api_key": key, "timeout": timeout, "max_retries": RETRIES}
        try:
            with openai.OpenAI(**self.connection | {"timeout": 30.0, "max_retries": 2}) as client:
                offered = {card.id: card for card in client.models.list()}
        except openai.OpenAIError as error:
            raise ValueError(f"server_url: no list of models from {base_url}: {_reason(error)}") from error
        if model not in offered:
            raise ValueError(f"server_url: {base_url} has the models {sorted(offered)}, not {model!r}.")
        self.max_length = getattr(offered[model], "max_model_len", None)
        self.at_once: float = math.inf  # most completions that the server gives for a request

    def sample(self, prompts: Sequence[Prompt], n: int, settings: SamplingSettings) -> list[list[Completion] | None]:
        """
        As in [`~mrt_plugin.engines.sampling.Sampler`].

        Raises:
            [`SamplingError`]: Names the prompts that the server failed on.
        """
        return asyncio.run(self._sample(prompts, n, settings))

    async def _sample(self, prompts, n, settings) -> list[list[Completion] | None]:
        import openai

        failed: dict[int, str] = {}
        free = asyncio.Semaphore(self.concurrency)

        async def one(client, index: int) -> list[Completion] | None:
            if not prompts[index].fits(self.max_length):
                return None
            async with free:
                try:
                    return await self._request(client, prompts[index], n, settings, index)
                except (openai.OpenAIError, ValueError) as error:
                    failed[index] = _reason(error)
                    return None

        async with openai.AsyncOpenAI(**self.connection) as client:
            drawn = await asyncio.gather(*(one(client, index) for index in range(len(prompts))))
        if failed:
            raise SamplingError(dict(sorted(failed.items())))
        return drawn

    async def _request(self, client, prompt: Prompt, n: int, settings: SamplingSettings, index: int):
        greedy, drawn = settings.temperature == 0, []
        while len(drawn) < (1 if greedy else n):
            asked = 1 if greedy else min(n - len(drawn), self.at_once)
            seed = None if settings.seed is None else settings.seed + n * index + len(drawn)
            got = await self._completions(client, prompt, asked, settings, seed)
            if len(got) < asked and len(got) < self.at_once:
                self.at_once = len(got)
                logger.warning("The server gives %d of %d completions (n); the rest is asked for.", len(got), asked)
            drawn += got
        return drawn * n if greedy else drawn

    async def _completions(self, client, prompt: Prompt, n: int, settings: SamplingSettings, seed: int | None):
        """Up to n completions, and at least one."""
        for tries_left in reversed(range(RETRIES + 1)):
            try:
                answer = await client.completions.create(
                    model=self.model,
                    prompt=prompt.token_ids,
                    n=n,
                    max_tokens=settings.max_new_tokens,
                    temperature=settings.temperature,
                    top_p=settings.top_p,
                    seed=seed,
                    # Or the server takes these from the model's generation config.
                    extra_body={"return_token_ids": True, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
                )
                drawn = [self._completion(choice) for choice in answer.choices or []]
                if not 1 <= len(drawn) <= n:
                    raise ValueError(f"{len(drawn)} completions where {n} were asked for")
                return drawn
            except (ValueError, AttributeError, TypeError) as error:  # not JSON, or not of its form
                if not tries_left:
                    raise ValueError(f"garbled answers, the last: {error}") from error
        raise AssertionError

    def _completion(self, choice) -> Completion:
        ended, token_ids = choice.finish_reason == "stop", getattr(choice, "token_ids", None)
        if token_ids is None:
            token_ids = tokenize(self.tokenizer, choice.text) + [self.tokenizer.eos_token_id] * ended
        return Completion(list(token_ids), ended)


def _reason(error: Exception) -> str:
    """What went wrong, with its cause, on one line."""
    return " ".join(f"{error}{f' ({error.__cause__})' if error.__cause__ else ''}".split())
