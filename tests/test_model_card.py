"""Model cards: what a training with MRT was, and what plain GRPO was, on either generation of TRL."""

import re

import pytest
from huggingface_hub import ModelCard
from test_trainer import build

from mrt_plugin import mrt_accuracy, mrt_progress


@pytest.mark.parametrize(
    ("rewards", "name", "paper", "tags"),
    [
        ([mrt_accuracy, mrt_progress], "MRT", "2503.07572", {"grpo", "mrt", "ours"}),
        ([mrt_accuracy], "GRPO", "2402.03300", {"grpo", "ours"}),
    ],
)
def test_a_model_card_names_the_method_and_its_paper(tmp_path, tokenizer, rewards, name, paper, tags):
    trainer = build(tmp_path, tokenizer, rewards)
    trainer.create_model_card(model_name="x", tags="ours")
    card = ModelCard.load(tmp_path / "README.md")
    assert set(card.data.tags) - {"generated_from_trainer", "trl"} == tags
    assert re.search(rf"trained with {name}, a method introduced in \[.+\]\(\S+/{paper}\)", card.text)
    assert re.findall(r"eprint += \{arXiv:(\S+)\}", card.text) == [paper]
