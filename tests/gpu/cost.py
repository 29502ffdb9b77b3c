r"""What MRT adds to a step of GRPO, in time and memory, at a user's sizes: random weights, traces made of real text.

The rollouts are given, not written, since random weights end no thinking; what writing them would take is measured on
a few tokens at half the length and counted in. All else is a step as users run it: rewards, the meta-prover's
branches, the loss and the optimizer.
"""

import random
import statistics
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from mrt_plugin import MRTConfig, MRTTrainer
from mrt_plugin.rewards import mrt_accuracy, mrt_progress
from study.settings import START
from study.tasks.revise import SETTINGS, make_problem, make_trace


SIZES = {
    "135M": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=16384,
            tie_word_embeddings=True,
        )
    ),
    "1.5B": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=151936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
            max_position_embeddings=16384,
            tie_word_embeddings=True,
        )
    ),
}
METHODS = {
    "GRPO": ([mrt_accuracy], {"mrt_credit": "none"}),
    "MRT dense, likelihood": ([mrt_accuracy, mrt_progress], {"mrt_estimator": "likelihood"}),
    "MRT dense, 4 samples": ([mrt_accuracy, mrt_progress], {"mrt_estimator": "sample", "mrt_samples": 4}),
}
ROLLOUTS, PROBE = 8, 32


class Given(MRTTrainer):
    """Takes the completions that it is given, and clocks the rest of each step."""

    def __init__(self, *args, completions: list[list[int]], **kwargs):
        super().__init__(*args, **kwargs)
        self.completions, self.times = completions, []

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        synchronize()
        self.times.append(time.perf_counter())  # a step begins where its rollouts would be written
        return self.completions[: len(prompt_ids)], None


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def traces(tokenizer, tokens: int) -> tuple[dict, list[list[int]]]:
    """A problem, and completions of just so many tokens that think about it and answer, in many episodes."""
    coefficients, rng, written = (3, 6, 3, 0), random.Random(0), []
    for _ in range(ROLLOUTS):
        thinking, answer = "", ""
        while len(tokenizer(thinking)["input_ids"]) < tokens:
            thought, answer = make_trace(coefficients, SETTINGS["hard"], rng).split("\n</think>")
            thinking += ("\n\nWait, solve it again.\n\n" if thinking else "") + thought
        end = tokenizer("\n</think>" + answer, add_special_tokens=False)["input_ids"]
        written.append(tokenizer(thinking, add_special_tokens=False)["input_ids"][: tokens - len(end)] + end)
    return make_problem(coefficients), written


def writing(model, tokens: int) -> float:
    """Seconds of writing so many tokens of `ROLLOUTS` rows, by what a few take at half the length."""
    prompt = torch.randint(10, 300, (ROLLOUTS, tokens // 2), device=model.device)
    options = {"do_sample": True, "pad_token_id": 0, "eos_token_id": None}
    taken = {}
    model.eval()
    with torch.no_grad():
        for count in (1, 1, 1 + PROBE):  # the first is a warm-up
            synchronize()
            begin = time.perf_counter()
            model.generate(prompt, min_new_tokens=count, max_new_tokens=count, **options)
            synchronize()
            taken[count] = time.perf_counter() - begin
    return (taken[1 + PROBE] - taken[1]) / PROBE * tokens


def measure(size: str, tokens: int, steps: int = 3) -> list[dict]:
    tokenizer = AutoTokenizer.from_pretrained(START / "revise-hard" / "warm-start")
    problem, completions = traces(tokenizer, tokens)
    prompt = [{"role": "user", "content": problem["problem"]}]
    data = Dataset.from_list([{"prompt": prompt, "solution": problem["solution"]}] * (steps + 1))
    rows, written = [], None
    for name, (rewards, options) in METHODS.items():
        torch.manual_seed(0)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = SIZES[size]().to(torch.bfloat16)
        with tempfile.TemporaryDirectory() as folder:
            args = MRTConfig(
                output_dir=folder,
                max_steps=steps + 1,
                per_device_train_batch_size=1,
                gradient_accumulation_steps=ROLLOUTS,
                num_generations=ROLLOUTS,
                max_completion_length=tokens,
                gradient_checkpointing=True,
                bf16=torch.cuda.is_available(),
                learning_rate=1e-6,
                save_strategy="no",
                report_to="none",
                logging_steps=1,
                mrt_termination="answer",
                mrt_answer_tokens=16,
                **options,
            )
            trainer = Given(
                model, rewards, args, train_dataset=data, processing_class=tokenizer, completions=completions
            )
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            trainer.train()
        synchronize()
        peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
        ends = [*trainer.times[1:], time.perf_counter()]
        steps_taken = [end - begin for begin, end in zip(trainer.times, ends, strict=True)]
        seconds = steps_taken[1:-1]  # neither warm-up nor end
        log = [one["mrt/branch_seconds"] for one in trainer.state.log_history if "mrt/branch_seconds" in one]
        written = writing(trainer.model, tokens) if written is None else written  # once: all write the same
        rows.append(
            {
                "model": size,
                "tokens of a trace": tokens,
                "method": name,
                "writing, s": written,
                "measuring J, s": statistics.median(log[1:]) if log else 0.0,
                "step without writing, s": statistics.median(seconds),
                "peak memory, GiB": peak,
            }
        )
        base = rows[0]
        rows[-1]["step, times GRPO"] = (written + rows[-1]["step without writing, s"]) / (
            written + base["step without writing, s"]
        )
        rows[-1]["memory, times GRPO"] = peak / base["peak memory, GiB"]
        del trainer, model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows
