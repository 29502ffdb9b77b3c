#!/usr/bin/env bash
# MRT on a laptop, from nothing: no GPU, no model hub, no data hub. Read it from top to bottom; it is the whole story.
#
#     make demo         about a quarter of an hour on two CPU cores
#     make demo-fast    the same stages in two to three minutes, too short for the model to learn
#
# A stage whose result is there is not done again; remove runs/demo to start over.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/demo sft=() rl=() sampling=()
if [ "${1:-}" = "--fast" ]; then
    out=runs/demo-fast sft=(--max_steps 120) rl=(--max_steps 8) sampling=(--num_generations 1)
fi
recipes=recipes/tiny-cpu
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
done_already() { [ -e "$1" ] && echo "already in $1"; }

say "1/5  Make problems, a tokenizer, and a very small model with random weights"
done_already $out/base/model.safetensors || python -m study.tasks.search --output $out

say "2/5  Warm start: fine-tune it on traces that search, but badly"
done_already $out/warm-start/model.safetensors ||
    mrt sft --config $recipes/sft/config_warm_start.yaml \
        --model_name_or_path $out/base --dataset_name $out/warm_start --output_dir $out/warm-start ${sft[@]+"${sft[@]}"}

say "3/5  Outcome GRPO: reward 1 for the right answer"
done_already $out/grpo/model.safetensors ||
    mrt grpo --config $recipes/grpo/config_outcome.yaml \
        --model_name_or_path $out/warm-start --dataset_name $out/problems --output_dir $out/grpo ${rl[@]+"${rl[@]}"}

say "4/5  MRT: the same, and every episode is credited with its progress"
done_already $out/mrt/model.safetensors ||
    mrt grpo --config $recipes/grpo/config_mrt.yaml \
        --model_name_or_path $out/warm-start --dataset_name $out/problems --output_dir $out/mrt ${rl[@]+"${rl[@]}"}

say "5/5  Measure all three on held-out problems"
for model in warm-start grpo mrt; do
    mrt evaluate --config $recipes/evaluation/regret.yaml --model_name_or_path $out/$model \
        --dataset_name $out/problems --output_dir $out/evaluation/$model ${sampling[@]+"${sampling[@]}"}
done
mrt figures --runs $out/evaluation/{warm-start,grpo,mrt} --output_dir $out/figures
mrt compare $out/evaluation/grpo $out/evaluation/mrt
