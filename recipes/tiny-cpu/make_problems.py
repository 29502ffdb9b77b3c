"""
Everything the laptop demo starts from: problems, warm-start traces, a tokenizer and an untrained model.

    python recipes/tiny-cpu/make_problems.py --output runs/demo

A problem asks for the x with a*x + b + c = 0 (mod 7), and is solved by trying values. One attempt is one episode of
three paragraphs: the value, its product with a, and the sums, which end in 0 if and only if the value is right. The
products and sums modulo 7 are small tables, which a tiny model learns in two minutes. It is shown no way to the answer
other than trying: in the traces, neither the values tried nor the guesses make use of the solution. The traces search
badly on purpose, in ways that reinforcement learning can unlearn: at times they go on to the next value, but mostly to
any, which may have failed already; they check the solution again after it was found; they give up and guess. The rates
are the constants below.

Written under `--output`:

- `problems/{train,test}.jsonl`: rows with `problem` and `solution`; no problem is in both. With
  `--validation 50`, that many more problems are kept from training, in `problems/validation.jsonl`.
- `warm_start/train.jsonl`: rows with plain-string `prompt` and `completion`, for SFT on the completion alone. The
  prompt is the rendered chat template, so it ends in `<think>` and a newline, as it does when the model generates.
- `base/`: a byte-level BPE tokenizer and a Qwen3 model with random weights.

Left out: any trace of a test problem. A test problem is new as a text only: its twin with b and c exchanged may be
among the training problems.
"""

import argparse
import json
import random
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


MODULUS = 7  # prime, so that every problem has exactly one solution
TEST_PROBLEMS = 94  # of 294; the rest is for training
TRACES_PER_PROBLEM = 40

ORDERLY = 0.4  # an attempt takes the value after the last one, and not just any
GIVE_UP = 0.12  # a trace stops thinking after a failed attempt, or before the first one
MAX_ATTEMPTS = 8  # keeps the rows of a batch of similar length
IDLE = 0.5  # a solved trace checks the solution once more, and then once more, ...

CUES = ["Wait", "But wait", "Alternatively", "But hold on"]  # tokens of their own, as budget forcing appends them
FINAL_ANSWER = "\n</think>\n\n**Final Answer**\n\n\\boxed{"
PAD, EOS = "<|pad|>", "<|end|>"

# Ends the generation prompt inside the thinking block, as R1's template does.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}" + EOS + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)


Coefficients = tuple[int, int, int]  # a, b and c; a is not a multiple of MODULUS


def make_problem(coefficients: Coefficients) -> dict:
    """One row of `problems`."""
    a, b, c = coefficients
    problem = f"Find x with {a}*x+{b}+{c}=0 (mod {MODULUS})."
    solution = next(x for x in range(MODULUS) if (a * x + b + c) % MODULUS == 0)
    return {"problem": problem, "solution": str(solution)}


def make_attempt(opening: str, x: int, a: int, b: int, c: int) -> str:
    """One episode: three paragraphs, which is the least that the segmentation rule accepts as an episode."""
    multiple = a * x % MODULUS
    partial = (multiple + b) % MODULUS
    total = (partial + c) % MODULUS
    verdict = "no" if total else "yes"
    return f"{opening} x={x}.\n\n{a}*{x}={multiple}.\n\n{multiple}+{b}={partial}, {partial}+{c}={total} ({verdict})."


def make_trace(coefficients: Coefficients, rng: random.Random) -> str:
    """One warm-start completion: a mediocre search, then the value it found, or else the one it would try next."""
    a, b, c = coefficients
    attempts, x, found = [], rng.randrange(MODULUS), None
    while found is None and len(attempts) < MAX_ATTEMPTS and rng.random() >= GIVE_UP:
        opening = f"{rng.choice(CUES)} try" if attempts else "Let me try"
        attempts.append(make_attempt(opening, x, a, b, c))
        if (a * x + b + c) % MODULUS == 0:
            found = x
        x = (x + 1) % MODULUS if rng.random() < ORDERLY else rng.randrange(MODULUS)
    while found is not None and len(attempts) < MAX_ATTEMPTS and rng.random() < IDLE:
        attempts.append(make_attempt(f"{rng.choice(CUES)} check again", found, a, b, c))
    answer = x if found is None else found
    return "\n\n".join(attempts) + FINAL_ANSWER + f"{answer}}}" + EOS


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


def main(output: Path, seed: int, validation: int) -> None:
    rng = random.Random(seed)
    coefficients = list(product(range(1, MODULUS), range(MODULUS), range(MODULUS)))
    rng.shuffle(coefficients)
    test, coefficients = coefficients[:TEST_PROBLEMS], coefficients[TEST_PROBLEMS:]
    held_out, train = coefficients[:validation], coefficients[validation:]
    splits = {"train": train, "test": test} | ({"validation": held_out} if validation else {})
    write_task(output, seed, rng, splits, make_problem, make_trace, TRACES_PER_PROBLEM)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validation", type=int, default=0, help="problems to keep from training for another split")
    arguments = parser.parse_args()
    main(arguments.output, arguments.seed, arguments.validation)
