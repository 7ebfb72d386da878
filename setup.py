# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

from setuptools import find_packages, setup


REQUIRED = [
    "torch>=2.13",
    "transformers>=5.23",
    "trl>=1.16",
    "peft>=0.21",
    "accelerate>=1.15",
    "datasets>=5.2",
    "gymnasium>=1.4",
    "evaluate>=0.4.6",
    "numpy>=2.4",
    "scipy>=1.17",
    "pillow>=13.0",
    "safetensors>=0.8",
    "matplotlib>=3.11",
]

EXTRAS = {
    "babyai": ["minigrid>=3.2"],
    "miniwob": ["miniwob>=1.1", "selenium>=4.51"],
    "quantization": ["bitsandbytes>=0.50"],
    "deepspeed": ["deepspeed>=0.19.8"],  # older ones compute NaN now and then after play under ZeRO-3
    "vllm": ["requests>=2.34"],  # the server has an environment of its own
}
EXTRAS["dev"] = [
    "pytest>=9.2", "pytest-xdist>=3.8", "ruff>=0.17", "build>=1.6", "tensorboard>=2.21", "hypothesis>=6.170",
    "triton>=3.7; platform_system == 'Linux'",  # its interpreter runs the kernels of GPUs; builds of torch for GPUs bring it
    *EXTRAS["babyai"], *EXTRAS["miniwob"], *EXTRAS["deepspeed"], *EXTRAS["quantization"], *EXTRAS["vllm"],
]  # fmt: skip
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})

README = Path(__file__).parent / "README.md"

setup(
    name="trl_vlmq",
    version="0.1.0",
    description="Off-policy, critic-filtered fine-tuning of vision-language model agents, as a TRL trainer",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["trl_vlmq", "trl_vlmq.*"]),
    package_data={"trl_vlmq": ["models/**/*", "metrics/**/*", "envs/miniwob/*.js"]},
    exclude_package_data={"": ["__pycache__/*", "*.py[cod]"]},
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["trl-vlmq = trl_vlmq.cli.main:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
