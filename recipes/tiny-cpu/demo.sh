#!/usr/bin/env bash
# MRT beside GRPO on a laptop: no GPU, no model hub, no data hub. Read it from top to bottom; it is the whole story.
#
#     make demo                       50 updates of each: eight minutes of two idle CPU cores
#     make demo-fast                  a third of the updates, which show the direction: four minutes
#     make demo FLAGS=--from-scratch  makes the warm start anew as well, which takes longer than the rest
#
# The model solves equations modulo 7 in attempts that it checks. It mostly gets there in the end, and wastes tokens on
# the way, so that almost all rollouts of a problem are right and the outcome tells them apart no more: the setting in
# which progress has something to say. A stage whose result is there is not done again; remove runs/demo to start over.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/demo rl=() start=kept
for flag in "$@"; do
    case $flag in
        --fast) out=runs/demo-fast rl=(--max_steps 16 --logging_steps 4) ;;
        --from-scratch) start=new ;;
        *) echo "unknown: $flag" >&2 && exit 2 ;;
    esac
done
recipes=recipes/tiny-cpu
export OMP_NUM_THREADS=1
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
done_already() { [ -e "$1" ] && echo "already in $1"; }

say "1/4  The warm start: a very small model that solves, slips, notices, and tries again"
if ! done_already $out/warm-start/model.safetensors; then
    mkdir -p $out
    if [ $start = kept ]; then
        cp -r study/start/revise-hard/problems study/start/revise-hard/warm-start $out
    else
        python -m study.tasks.revise hard --output $out
        mrt sft --config $recipes/sft/config_warm_start.yaml \
            --model_name_or_path $out/base --dataset_name $out/warm_start --output_dir $out/warm-start
    fi
fi

train() {
    done_already $out/"$1"/model.safetensors ||
        mrt grpo --config $recipes/grpo/"$2" --model_name_or_path $out/warm-start --dataset_name $out/problems \
            --output_dir $out/"$1" ${rl[@]+"${rl[@]}"} > $out/"$1".log 2>&1 || { tail -n 20 $out/"$1".log && exit 1; }
}
say "2/4  Outcome GRPO, and MRT, which also credits progress to the tokens that made it: side by side, a core each"
echo "some minutes; to follow them: tail -f $out/grpo.log $out/mrt.log"
train grpo config_outcome.yaml & grpo=$!
train mrt config_mrt.yaml & mrt=$!
wait $grpo && wait $mrt

measure() {
    mrt evaluate --config $recipes/evaluation/regret.yaml --model_name_or_path $out/"$1" \
        --dataset_name $out/problems --output_dir "$out/evaluation/$2" > $out/"$1"-evaluation.log 2>&1 ||
        { tail -n 20 $out/"$1"-evaluation.log && exit 1; }
}
say "3/4  Measure them, and the warm start, on held-out problems"
measure grpo "GRPO" & grpo=$!
measure mrt "MRT dense" & mrt=$!
wait $grpo && wait $mrt && measure warm-start "warm start"

say "4/4  Where MRT is better than GRPO beyond noise, and where it is not"
mrt figures --runs "$out/evaluation/warm start" "$out/evaluation/GRPO" "$out/evaluation/MRT dense" \
    --output_dir $out/figures
mrt compare "$out/evaluation/GRPO" "$out/evaluation/MRT dense"
cat << END

pass@1: right answers within 480 tokens. 90% within: the length that nine of ten completions do not exceed. cut: completions
that did not end within 480 tokens. regret@N (arXiv 2503.07572): the success that is missing, on average over N tokens.
This is one seed on one small task. docs/results.md has more seeds, other tasks, and what progress costs.

Look at  $out/figures/report.html  and read rollouts in  $out/figures/view.html
END
