r"""Whether MRT's branches, and the loss's gradient, come out the same under each implementation of attention."""

import time
from importlib.util import find_spec

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mrt_plugin.engines.policy import PolicySampler
from mrt_plugin.engines.sampling import Prompt
from mrt_plugin.upstream.attention import avoid_cudnn_attention
from tests.gpu.cost import synchronize, traces
from tests.gpu.trainings import WARM_START


KEYS = 448
"""Of a batch padded on the left: 64 modulo 128, where cuDNN's attention is at fault."""

CUTS = (40, 80, 160, 320)
TARGET = "So x=3."


def implementations(device: str) -> list[tuple[str, torch.dtype]]:
    """The first is the reference."""
    found = [(name, dtype) for dtype in (torch.float32, torch.bfloat16) for name in ("sdpa", "eager")]
    if device == "cuda" and find_spec("flash_attn"):
        found.append(("flash_attention_2", torch.bfloat16))
    return found


def run(device: str) -> list[dict]:
    tokenizer = AutoTokenizer.from_pretrained(WARM_START)
    _, written = traces(tokenizer, KEYS)
    rows, reference = [], None
    for name, dtype in implementations(device):
        avoid_cudnn_attention(name, half=dtype != torch.float32)
        model = AutoModelForCausalLM.from_pretrained(WARM_START, dtype=dtype, attn_implementation=name).to(device)
        sampler = PolicySampler(model, tokenizer)
        row = {"attention": name, "weights": str(dtype).removeprefix("torch."), "shares traces": not sampler.plain}
        scores, row["ms of scoring"] = clocked(score, sampler, tokenizer, written)
        gradient, row["ms of a gradient"] = clocked(gradient_of, model, written)
        reference = reference or (scores, gradient)
        row["log-probability, nats off at most"] = (scores - reference[0]).abs().max().item()
        row["gradient, relative distance"] = ((gradient - reference[1]).norm() / reference[1].norm()).item()
        rows.append(row)
    return rows


def clocked(work, *given):
    """What a function returns, and the milliseconds that its second call takes."""
    work(*given)
    synchronize()
    begin = time.perf_counter()
    found = work(*given)
    synchronize()
    return found, 1000 * (time.perf_counter() - begin)


def score(sampler: PolicySampler, tokenizer, written: list[list[int]]) -> torch.Tensor:
    """Log-probabilities of one target behind cuts of each trace."""
    target = tokenizer(TARGET, add_special_tokens=False)["input_ids"]
    prompts = [Prompt(trace, cut) for trace in written for cut in CUTS]
    return torch.tensor(sampler.score(prompts, [target] * len(prompts)))


def gradient_of(model, written: list[list[int]]) -> torch.Tensor:
    """Of the mean log-probability of the traces, each shorter than the last and padded on the left."""
    input_ids = torch.tensor(written, device=model.device)
    padding = torch.arange(len(written), device=model.device)[:, None] * 40
    places = torch.arange(KEYS, device=model.device)
    labels = input_ids.masked_fill(places <= padding, -100)  # no token is predicted from padding
    model.zero_grad()
    model(input_ids, attention_mask=(places >= padding).long(), labels=labels).loss.backward()
    return torch.cat([one.grad.float().flatten().cpu() for one in model.parameters()])
