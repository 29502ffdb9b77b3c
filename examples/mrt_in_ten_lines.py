# /// script
# dependencies = [
#     "mrt-plugin",
#     "trackio",
# ]
# ///

"""
MRT in ten lines: the tokens before the end of an episode earn what it adds to the chance of a right answer.

```
python examples/mrt_in_ten_lines.py             # one GPU
accelerate launch examples/mrt_in_ten_lines.py  # all GPUs of a machine
```
"""

from datasets import load_dataset

from mrt_plugin import MRTConfig, MRTTrainer, mrt_accuracy, mrt_progress


trainer = MRTTrainer(
    model="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    reward_funcs=[mrt_accuracy, mrt_progress],  # the second one switches MRT on
    args=MRTConfig(output_dir="runs/mrt", report_to="trackio"),
    train_dataset=load_dataset("trl-lib/DeepMath-103K", split="train"),  # columns: prompt, solution
)
trainer.train()
trainer.save_model()
