# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import re
from pathlib import Path

import gymnasium
import pytest


PAGE = Path(__file__).parents[2] / "docs" / "environments.md"


def test_the_examples_in_the_documentation_run():
    pytest.importorskip("minigrid")
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(examples) == 5
    namespace = {}
    try:
        for example in examples:
            exec(compile(example, str(PAGE), "exec"), namespace)
    finally:
        gymnasium.registry.pop("Corridor-v0", None)
    assert namespace["messages"][0]["content"][0] == {"type": "image"} and len(namespace["images"]) == 1

    assert namespace["Simulator"].rollout_settings == (4, 90.0, 0.1)

    env = namespace["Corridor"]()
    env.reset(seed=0)
    expert, terminated = env.make_behavior("expert", None), False
    while not terminated:
        _, reward, terminated, _, info = env.step(expert.act())
    assert reward == 1.0 and info["success"] and env.elapsed_steps == 3


def test_the_examples_of_the_games_run_and_print_what_the_page_says(capsys):
    page = PAGE.with_name("gym_cards.md").read_text(encoding="utf-8")
    namespace = {}
    for example in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(compile(example, "gym_cards.md", "exec"), namespace)
    printed = capsys.readouterr().out
    percentages = re.findall(r"^\| .* \| (\d\d\.\d\d)% \| -0\.\d{3} \|$", page, re.MULTILINE)
    assert len(percentages) == 5
    assert [f"{100 * float(win):.2f}" for win in re.findall(r"Score\(win=([^,]*),", printed)] == percentages
