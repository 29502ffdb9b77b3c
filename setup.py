"""Packaging of `mrt-plugin`: Meta Reinforcement Fine-Tuning for TRL and Open-R1."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "mrt_plugin" / "__init__.py").read_text(), re.M).group(1)

# mrt_plugin/upstream/version.py refuses every trl between 0.18 and 1.16. Where pip finds one of them it installs 1.16.
BETWEEN = [f"0.{minor}" for minor in range(19, 30)] + [f"1.{minor}" for minor in range(16)]

extras = {
    "vllm": ["trl[vllm]"],  # a vLLM, and a peft, that the installed trl works with
    "peft": ["trl[peft]"],
    "deepspeed": ["deepspeed"],
    "ray": ["ray[data]"],
    "server": ["openai"],
    "figures": ["matplotlib"],
    # The versions that Open-R1 pins. Open-R1 itself is installed from its repository.
    "open-r1": ["trl==0.18.0", "transformers==4.52.3", "accelerate==1.4.0", "math-verify==0.5.2"],
    "test": ["hypothesis", "openai", "pytest", "pytest-timeout"],
    "quality": ["pre-commit", "ruff"],
    "docs": ["zensical~=0.0.73", "mkdocstrings-python>=2.0"],
}
extras["test"] += extras["figures"] + extras["peft"]
extras["dev"] = extras["test"] + extras["quality"] + extras["docs"] + extras["ray"]

setup(
    name="mrt-plugin",
    version=VERSION,
    description="Meta Reinforcement Fine-Tuning (MRT) for TRL and Open-R1: credit for the progress of every episode",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="reasoning, reinforcement learning, GRPO, RLVR, test-time compute, credit assignment, TRL, Open-R1",
    project_urls={
        "Paper": "https://arxiv.org/abs/2503.07572",
        "TRL": "https://github.com/huggingface/trl",
        "Open-R1": "https://github.com/huggingface/open-r1",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=[*find_packages(include=["mrt_plugin", "mrt_plugin.*"]), "mrt_plugin.recipes"],
    package_dir={"mrt_plugin.recipes": "recipes"},
    package_data={
        "mrt_plugin": ["py.typed"],
        "mrt_plugin.analysis": ["*.css", "*.html"],
        "mrt_plugin.recipes": ["README.md", "**/*.yaml", "evaluation/lighteval_tasks.py"],
    },
    # What only a checkout can run: the demo and the smoke test make their problems and models with the study.
    exclude_package_data={"mrt_plugin.recipes": ["tiny-cpu/**", "smollm2/**"]},
    python_requires=">=3.11",
    install_requires=[
        "accelerate>=1.4.0",
        "datasets>=3.0",
        "latex2sympy2_extended>=1.0.6",
        "math-verify>=0.5.2",
        "numpy>=1.26",
        "pebble>=5.1",
        "scipy>=1.15",
        "torch>=2.6",
        "transformers>=4.52.3",
        "trl>=0.18.0," + ",".join(f"!={version}.*" for version in BETWEEN),
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["mrt = mrt_plugin.cli:main"]},
)
