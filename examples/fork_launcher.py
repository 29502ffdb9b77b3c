"""
The launcher of a fork of Open-R1 with MRT in it: three lines, and no line of the fork changes. It stands anywhere, and
"open_r1.grpo" is the fork's own training script, as a module.

```
accelerate launch --config_file recipes/accelerate_configs/zero3.yaml fork_launcher.py \
    --config recipes/Qwen2.5-1.5B-Instruct/grpo/config_demo.yaml \
    --vllm_mode colocate --reward_funcs accuracy mrt_progress
```
"""

import runpy

from mrt_plugin import register


register()  # before the script parses its arguments
runpy.run_module("open_r1.grpo", run_name="__main__", alter_sys=True)
