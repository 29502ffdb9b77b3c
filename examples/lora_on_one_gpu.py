# /// script
# dependencies = [
#     "mrt-plugin[peft,vllm]",
#     "trackio",
# ]
# ///

"""
MRT with LoRA on one GPU of 24 GB. Every field of TRL's models, adapters and training is a flag, as is every `mrt_*`.
recipes/DeepSeek-R1-Distill-Qwen-1.5B/grpo/config_mrt_lora.yaml says what the values are reckoned for.

```
python examples/lora_on_one_gpu.py \
    --model_name_or_path deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \
    --dtype bfloat16 \
    --dataset_name trl-lib/DeepMath-103K \
    --output_dir runs/mrt-lora \
    --use_peft \
    --lora_r 32 \
    --lora_alpha 32 \
    --lora_target_modules all-linear \
    --learning_rate 1e-5 \
    --num_generations 4 \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps 64 \
    --max_completion_length 4096 \
    --max_steps 248 \
    --use_vllm \
    --vllm_mode colocate \
    --vllm_gpu_memory_utilization 0.4 \
    --mrt_termination answer \
    --mrt_answer_tokens 64 \
    --report_to trackio
```
"""

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config

from mrt_plugin import MRTConfig, MRTTrainer, mrt_accuracy, mrt_progress


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, MRTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,  # torch_dtype, twice, with trl 0.18
    }
    dataset = load_dataset(script_args.dataset_name, name=script_args.dataset_config)
    trainer = MRTTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=[mrt_accuracy, mrt_progress],
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],  # columns: prompt, solution
        peft_config=get_peft_config(model_args),
    )
    trainer.train()
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
