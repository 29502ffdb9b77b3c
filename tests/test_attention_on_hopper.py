"""cuDNN's attention is left where its gradients can be NaN, once, with a sentence, unless the user keeps it."""

import logging

import pytest
import torch

from mrt_plugin import launch, sft
from mrt_plugin.upstream import attention


@pytest.fixture
def hopper(monkeypatch):
    """A machine on which the fault can strike, as far as it is asked."""
    monkeypatch.delenv(attention.KEEP, raising=False)
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield monkeypatch
    torch.backends.cuda.enable_cudnn_sdp(before)


def test_it_is_switched_off_and_said_once(hopper, caplog):
    with caplog.at_level(logging.WARNING):
        for chosen in ("sdpa", None):
            attention.avoid_cudnn_attention(chosen, half=True)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert caplog.text.count("cuDNN's attention is off") == 1
    assert "MRT_CUDNN_ATTENTION=1" in caplog.text


@pytest.mark.parametrize(
    ("chosen", "half", "version", "capability"),
    [
        ("flash_attention_2", True, "2.11.0", (9, 0)),
        ("eager", True, "2.11.0", (9, 0)),
        ("sdpa", False, "2.11.0", (9, 0)),
        ("sdpa", True, "2.10.1", (9, 0)),
        ("sdpa", True, "2.11.0", (8, 0)),
        ("sdpa", True, "2.11.0", (10, 0)),
    ],
)
def test_where_it_cannot_strike_nothing_changes(hopper, chosen, half, version, capability):
    hopper.setattr(torch, "__version__", version)
    hopper.setattr(torch.cuda, "get_device_capability", lambda: capability)
    attention.avoid_cudnn_attention(chosen, half)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_a_user_can_keep_it(hopper):
    hopper.setenv(attention.KEEP, "1")
    attention.avoid_cudnn_attention("sdpa", half=True)
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (["--bf16", "true"], (None, True)),
        (["--torch_dtype", "float16", "--attn_implementation", "eager"], ("eager", True)),
        ([], (None, False)),
    ],
)
def test_the_launchers_ask_before_they_load_anything(monkeypatch, options, asked, tmp_path):
    class Asked(Exception):
        pass

    def ask(*given):
        raise Asked(*given)

    monkeypatch.setattr(launch, "avoid_cudnn_attention", ask)
    recipe = ["--model_name_or_path", "nowhere", "--dataset_name", "nowhere", "--output_dir", str(tmp_path / "out")]
    with pytest.raises(Asked) as found:
        sft.run(["--upstream", "trl", *recipe, "--use_cpu", "true", "--bf16", "false", *options])
    assert found.value.args == asked
