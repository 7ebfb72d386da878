# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq memory`: the table, the same as JSON, what fits, and mistakes in one line."""

import json

import pytest


TINY = "memory --model_name_or_path tiny-babyai --prompt_tokens 128 --tuning lora --launch one zero3 --devices 2"


def test_the_table_and_the_json_say_the_same_and_what_fits(run):
    code, out, _ = run(f"{TINY} --gpu_memory 1GiB")
    assert code == 0
    header, _, *rows = [line.strip("| ").split("|") for line in out.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header][:3] == ["setup", "base weights", "adapter"]
    assert [row[0].strip() for row in rows] == ["lora one", "lora zero3"]
    assert (
        out.splitlines()[-1] == "Fit into 1GiB with a tenth of it left free: lora one."
    )  # DeepSpeed's bucket alone is 0.93
    code, out, _ = run(f"{TINY} --gpu_memory 1GiB --json")
    found = json.loads(out)
    assert code == 0 and [entry["fits"] for entry in found] == [True, False]
    total = [cell.strip() for cell in header].index("total")
    for entry, row in zip(found, rows, strict=True):
        assert entry["total"] == sum(entry["parts"].values())
        assert f"{entry['total'] / 2**30:.2f}" == row[total].strip(" ~")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--gpu_memory 24", 2, "--gpu_memory 24: write a number and one of GiB, GB, MiB, MB, such as 24GiB"),
        ("--tuning qlora", 2, "--tuning qlora: choose from full, lora, lora-8bit, lora-4bit"),
        ("--prompt_tokens 10", 1, "error: prompt_tokens=10 is too short"),
        ("--tuning lora-4bit --launch zero3", 1, "error: Quantised bases are estimated with one, ddp and zero2 only"),
        ("--model_name_or_path no/such/folder", 1, "The model 'no/such/folder' cannot be loaded"),
    ],
)
def test_mistakes_are_named_in_one_line(run, arguments, code, message):
    base = "memory --model_name_or_path tiny-babyai"
    found, out, err = run(f"{base} {arguments}")
    assert (found, out) == (code, "") and message in err.splitlines()[-1]
