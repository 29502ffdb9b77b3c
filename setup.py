"""Packaging of `mrt-plugin`: Meta Reinforcement Fine-Tuning for TRL and Open-R1."""

import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "mrt_plugin" / "__init__.py").read_text(), re.M).group(1)

extras = {
    "vllm": ["vllm"],
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
extras["test"] += extras["figures"]
extras["dev"] = extras["test"] + extras["quality"] + extras["docs"] + extras["ray"]

setup(
    name="mrt-plugin",
    version=VERSION,
    description="Meta Reinforcement Fine-Tuning (MRT) for TRL and Open-R1: credit for the progress of every episode",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mrt_plugin", "mrt_plugin.*"]),
    package_data={"mrt_plugin.analysis": ["*.css", "*.html"]},
    python_requires=">=3.10",
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
        "trl>=0.18.0",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["mrt = mrt_plugin.cli:main"]},
)
