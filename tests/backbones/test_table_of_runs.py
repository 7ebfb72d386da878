# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The table in docs/backbones.md claims of each family what tests run, and nothing else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_families import LAUNCHED_FAMILIES

import trl_vlmq


ROOT = Path(trl_vlmq.__file__).parents[1]

TRAINING = "test_training_families.py::"
CONTRACT = "test_contract.py::"
TOGETHER = "test_family_launchers.py::test_each_family_trains_in_two_processes_as_in_one"
MOONDREAM2 = "moondream2/test_moondream2_model.py::test_"

# Of each column, the tests that have to be there for a family to have its mark.
COLUMNS = {
    "train": [TRAINING + "test_each_family_trains_and_acts_with_what_it_has_learned[{}]"],
    "generate": [
        CONTRACT + f"test_what_is_generated_has_the_log_probability_that_training_computes[{{}}-{temperature}]"
        for temperature in (0.0, 1.0)
    ],
    "LoRA": [CONTRACT + "test_lora_adapts_the_whole_language_model_and_no_vision_weight[{}]"],
    "save, reload": [
        CONTRACT + f"test_a_model_comes_back_from_disk_as_it_went_there[{{}}-{what}]" for what in ("full", "adapter")
    ],
    "4 bits": [TRAINING + "test_each_family_trains_on_a_base_in_4_bits[{}]"],
    "DDP": [TOGETHER + "[{}-ddp]"],
    "ZeRO-2": [TOGETHER + "[{}-zero2]"],
    "ZeRO-3": [TOGETHER + "[{}-zero3]"],
    "FSDP2": [TOGETHER + "[{}-fsdp2]"],
}
# Of MoonDream2, which has tests of its own instead of the contract.
OF_MOONDREAM2 = {
    "generate": [MOONDREAM2 + "what_acting_computes_step_by_step_training_computes_at_once[pixels-2025]"],
    "LoRA": [MOONDREAM2 + "default_lora_covers_the_decoder_and_nothing_else[2025]"],
    "save, reload": [MOONDREAM2 + f"it_comes_back_from_disk_as_it_went_there[2025-{what}]" for what in ("full", "adapter")],
}  # fmt: skip


@pytest.mark.slow
def test_the_table_of_the_docs_marks_what_tests_run_and_nothing_else():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/backbones"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    tests = {line.removeprefix("tests/backbones/") for line in done.stdout.splitlines()}

    def is_run(name: str, column: str) -> bool:
        own = OF_MOONDREAM2 if name == "moondream2" else {}
        needed = own.get(column, COLUMNS[column])
        return {test.format(name) for test in needed} <= tests

    expected = {name: {column: is_run(name, column) for column in COLUMNS} for name in LAUNCHED_FAMILIES}
    assert table() == expected


def table() -> dict[str, dict[str, bool]]:
    """Of each family, by the name of its test in brackets, the columns that are marked."""
    lines = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| model family |"))
    header = [cell.strip() for cell in lines[start].strip("|").split("|")][1:]
    rows = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        family, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        name = re.search(r"`(\w+)`", family)
        assert set(cells) <= {"✓", "○"} and len(cells) == len(header), line
        if name:
            rows[name[1]] = dict(zip(header, (cell == "✓" for cell in cells), strict=True))
        else:  # other classes: nothing is run
            assert set(cells) == {"○"}, line
    return rows
