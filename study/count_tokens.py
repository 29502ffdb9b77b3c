"""
`mrt star` that also says how many tokens it drew, rollouts and answers, in a file.

    python -m study.count_tokens --count runs/demo/tokens --config recipes/tiny-cpu/star/data_mrt.yaml
"""

import argparse
from pathlib import Path

from mrt_plugin.data import star
from mrt_plugin.jobs import batch


def counting(sampler, file: Path):
    """The same sampler; with each call, the file has the number of tokens of all calls."""
    sample, total = sampler.sample, 0

    def counted(*call):
        nonlocal total
        drawn = sample(*call)
        total += sum(len(completion.token_ids) for group in drawn for completion in group or [])
        file.write_text(str(total))
        return drawn

    sampler.sample = counted
    return sampler


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--count", type=Path, required=True)
    chosen, arguments = parser.parse_known_args()
    load_sampler = batch.load_sampler
    batch.load_sampler = lambda *given: counting(load_sampler(*given), chosen.count)
    star.run(arguments)
