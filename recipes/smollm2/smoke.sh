#!/usr/bin/env bash
# Data builders and measurements with a real language model (135 million parameters) on a CPU, without any hub.
#
#     make smoke        about twelve minutes on two CPU cores
#
# What is built is not built again; remove runs/smoke to start over.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/smoke
[ -e $out/steps/train.jsonl ] || python recipes/smollm2/prepare.py --output $out
mrt star --config recipes/smollm2/star/data_mrt.yaml
mrt prefixes --config recipes/smollm2/prefixes/data_mrt.yaml
mrt backtracking --config recipes/smollm2/backtracking/data_backtrack.yaml
mrt evaluate --config recipes/smollm2/evaluation/regret.yaml
mrt evaluate --config recipes/smollm2/evaluation/backtracking.yaml
mrt evaluate --config recipes/smollm2/evaluation/backtracking.yaml \
    --num_generations 1 --attempts 4 --output_dir $out/evaluation/linearized
mrt figures --runs $out/evaluation/regret --output_dir $out/figures/regret
mrt figures --runs $out/evaluation/{parallel,linearized} --output_dir $out/figures/backtracking
mrt compare $out/evaluation/{parallel,linearized}

python - $out/star-mrt $out/prefixes $out/backtracking <<'EOF'
import sys
from pathlib import Path

from datasets import load_dataset

for folder in sys.argv[1:]:
    card = (Path(folder) / "README.md").read_text()
    print(f"\n=== {folder}\n" + card[card.index("| what | count |") :])
    row = load_dataset(folder, split="train")[0]
    shown = row["messages"][-1]["content"] if "messages" in row else row.get("prefix") or row["completion"]
    print(shown, "\n", {name: value for name, value in row.items() if "success" in name})
EOF
