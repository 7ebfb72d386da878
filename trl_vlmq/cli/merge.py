# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq merge`: an adapter and its base -> one full model."""

from dataclasses import dataclass, field
from typing import Literal

from trl_vlmq.merging import merge_adapter

from .errors import user_errors
from .parsing import CommandParser


@dataclass
class MergeArguments:
    """What to merge, and where to."""

    model: str = field(metadata={"help": "Folder or Hub id of the adapter."})
    output: str = field(metadata={"help": "Folder for the full model; a new one."})
    base: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the base in full precision. Default: what the adapter names."},
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Dtype of the merged weights; auto is that of the base."}
    )


EXAMPLES = """examples:
  trl-vlmq merge --model agent --output agent-merged
  trl-vlmq merge --model user/agent --output agent-merged --dtype float32"""


def main(argv: list[str]) -> None:
    """Run `trl-vlmq merge`."""
    parser = CommandParser(
        "merge",
        [MergeArguments],
        {"arguments": ["model", "output", "base", "dtype"]},
        usage="--model ADAPTER --output FOLDER [options]",
        description="Write the full model that an adapter and its base make. It loads with plain transformers; the critic "
        "goes along, for further training.",
        examples=EXAMPLES,
    )
    (arguments,) = parser.parse(argv)
    with user_errors(OSError, ValueError):
        merge_adapter(arguments.model, arguments.output, base=arguments.base, dtype=arguments.dtype)
    print(f"Full model: {arguments.output}")
