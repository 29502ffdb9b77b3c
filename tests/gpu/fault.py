r"""The fault of cuDNN's attention by itself: which masks, lengths and logits give gradients that are not finite."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


LENGTHS = (384, 416, 448, 480, 704)  # 0, 32, 64, 96 and 64 modulo 128
WIDTH = 64
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "torch's own choice": None,
}


def mask_and_logit(case: str, length: int, device: str) -> tuple[torch.Tensor, float]:
    """A mask (1, 1, length, length), True where a query may look, and what each logit is moved by."""
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if case == "left padding":
        mask[:, :5] = False  # so the first five rows look at nothing, as in a batch of prompts of several lengths
    elif case == "left padding, unmasked":
        mask[5:, :5] = False  # what transformers makes of it: rows of padding look at themselves
    return mask[None, None], -120.0 if case == "sharp" else 0.0


def finite(case: str, length: int, backend: SDPBackend | None, dtype: torch.dtype, device: str) -> bool:
    """Whether the gradients of queries, keys and values, each (1, 4, length, WIDTH), are finite."""
    torch.manual_seed(0)
    mask, logit = mask_and_logit(case, length, device)
    query, key, value = (0.1 * torch.randn(3, 1, 4, length, WIDTH, device=device)).to(dtype)
    query[..., 0], key[..., 0] = 1.0, logit * WIDTH**0.5
    inputs = [one.clone().requires_grad_() for one in (query, key, value)]
    if backend is None:
        out = scaled_dot_product_attention(*inputs, attn_mask=mask)
    else:
        with sdpa_kernel(backend):
            out = scaled_dot_product_attention(*inputs, attn_mask=mask)
    seen = mask[0, 0].any(1)  # nothing comes back to a row of padding, whose output nobody reads
    out.backward(torch.randn_like(out) * seen[:, None])
    return all(bool(one.grad.isfinite().all()) for one in inputs)


def run(device: str) -> list[dict]:
    rows = []
    for case in ("causal", "left padding", "left padding, unmasked", "sharp"):
        for name, backend in BACKENDS.items():
            row = {"mask and logits": case, "backend": name}
            for length in LENGTHS:
                try:
                    whole = [finite(case, length, backend, kind, device) for kind in (torch.bfloat16, torch.float16)]
                    row[f"{length} keys"] = "finite" if all(whole) else "not finite"
                except RuntimeError as error:
                    row[f"{length} keys"] = "unavailable" if "No available kernel" in str(error) else str(error)[:40]
            rows.append(row)
    return rows
