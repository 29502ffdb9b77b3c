"""
What the tasks share: a tokenizer, an untrained model, and how problems and warm-start traces are written.

A task is a module with `write(output, seed)`. It writes, under `output`:

- `problems/{train,validation,test}.jsonl`: rows with `problem` and `solution`; no problem is in two of them.
- `warm_start/train.jsonl`: rows with plain-string `prompt` and `completion`, for SFT on the completion alone. The
  prompt is the rendered chat template, so it ends in `<think>` and a newline, as it does when the model generates.
- `base/`: a byte-level BPE tokenizer and a Qwen3 model with random weights.

Left out: any trace of a held-out problem.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


CUES = ["Wait", "But wait", "Alternatively", "But hold on"]  # tokens of their own, as budget forcing appends them
FINAL_ANSWER = "\n</think>\n\n**Final Answer**\n\n\\boxed{"
PAD, EOS = "<|pad|>", "<|end|>"

# Ends the generation prompt inside the thinking block, as R1's template does.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + EOS + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


def make_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """
    Byte-level BPE in which a digit is always the same token, with or without a space before it.

    Newlines are never merged, neither with each other nor with a full stop: a trace that is cut between paragraphs and
    continued has then the same tokens whether it is joined as text or as ids.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|\d| ?[^\s\d]+(?: (?=\d))?|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, EOS, "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
        show_progress=False,
    )
    # Without the tags, so that they are no part of any merge.
    tokenizer.train_from_iterator((text.replace("<think>", "").replace("</think>", "") for text in corpus), trainer)
    # Not special, so that decoding with `skip_special_tokens` keeps them.
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """
    A Qwen3 model of 0.6 million random weights.

    Not Qwen2: for that type, `AutoTokenizer` of transformers 5 replaces the tokenizer's own splitting rule by Qwen2's.
    """
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.08,  # about 1 / sqrt(hidden_size)
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    return model


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_task(
    output: Path,
    seed: int,
    rng: random.Random,
    drawn: dict[str, list],
    problem: Callable,
    trace: Callable,
    traces: int,
) -> None:
    """
    Writes a task: what was drawn for each split becomes a row by `problem`, and of those for training also as many
    completions for the warm start by `trace`.
    """
    problems = {split: [problem(one) for one in some] for split, some in drawn.items()}
    for split, rows in problems.items():
        write_rows(output / "problems" / f"{split}.jsonl", rows)
    pairs = zip(problems["train"], drawn["train"], strict=True)
    traced = [(row, trace(one, rng)) for row, one in pairs for _ in range(traces)]
    rng.shuffle(traced)
    tokenizer = make_tokenizer([row["problem"] + "\n" + completion for row, completion in traced])
    rows = []
    for row, completion in traced:
        messages = [{"role": "user", "content": row["problem"]}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        rows.append({"prompt": prompt, "completion": completion})
    write_rows(output / "warm_start" / "train.jsonl", rows)
    tokenizer.save_pretrained(output / "base")
    make_model(tokenizer, seed).save_pretrained(output / "base")
