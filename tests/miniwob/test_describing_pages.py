# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the embedded model is asked about pages is true, and it reads pages that it has never seen."""

import json
import random
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trl_vlmq.backbones import load_backbone


pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(REPOSITORY / "examples"))
LINE = re.compile(r'\[(?P<ref>\d+)\] (?P<role>[a-z]+)(?: "(?P<name>[^"]*)")?(?P<rest>.*)')


@pytest.fixture(scope="module")
def views(chromium):
    from captions_miniwob import generate_views

    return generate_views(25, random.Random(5))


def read_answer(question: str, lines: list[re.Match]) -> str | None:
    """What the text of a page answers; `None` if the question is about more than that."""

    def those(condition) -> str:
        return " ".join([line["ref"] for line in lines if condition(line)][:5]) or "none"

    if match := re.fullmatch(r'Which (?:(\w+) )?is "(.*)"\?', question):
        role, name = match.groups()
        return those(lambda line: line["name"] == name and role in (None, line["role"]))
    if match := re.fullmatch(r"Which are of role (\w+)\?", question):
        return those(lambda line: line["role"] == match[1])
    if match := re.fullmatch(r"Which is (\w+) number (\d)\?", question):
        return [line["ref"] for line in lines if line["role"] == match[1]][int(match[2]) - 1]
    if match := re.fullmatch(r"Which are (unchecked|checked|selected|focused)\?", question):
        return those(lambda line: match[1] in line["rest"].split())
    if match := re.fullmatch(r"What is (\d+)\?", question):
        line = next(line for line in lines if line["ref"] == match[1])
        return f"{line['role']} {(line['name'] or '')[:30]}".strip()
    return None


def test_answers_are_those_that_the_text_of_the_page_gives(views):
    from captions_miniwob import ask

    rng, checked = random.Random(0), defaultdict(int)
    for view in (view for view in views if view.text):
        lines = [match for line in view.text.splitlines()[1:] if (match := LINE.fullmatch(line))]
        if len(lines) != len(view.elements):
            continue  # a name with line breaks or quotes
        for _ in range(40):
            question, answer = ask(view, rng)
            expected = read_answer(question, lines)
            if expected is not None:
                assert answer == expected, (question, view.text)
                checked[re.sub(r'".*"|\d+', "", question)[:10]] += 1
    assert len(checked) >= 6 and sum(checked.values()) > 200


def test_no_answer_is_an_action(views):
    from captions_miniwob import ask

    from trl_vlmq.envs.miniwob.actions import BrowserActionGrammar

    rng = random.Random(1)
    answers = [ask(view, rng)[1] for view in views for _ in range(10)] + [view.description for view in views]
    assert not any(map(BrowserActionGrammar().parse, answers))


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "tasks"),
    [
        ("name", ("click-dialog-2", "identify-shape", "login-user", "click-test-2")),  # one of two to six by chance
        ("place", ("login-user", "enter-text", "click-checkboxes", "click-tab")),  # one of fifteen
    ],
)
def test_the_tiny_vlm_tells_names_and_places_on_unseen_pages(on, kind, tasks):
    from captions_miniwob import place, tell

    backbone, asked, truth = load_backbone("tiny-miniwob"), [], []
    for task in tasks:
        for seed in range(70_000, 70_004):
            env = on(task, seed)
            elements = [element for element in env.page if not element.group]
            names = [element.name for element in elements]
            for element in elements:
                if kind == "place":
                    question, answer = f"Where is {element.ref}?", place(element)
                elif names.count(element.name) == 1 and element.name:
                    question, answer = f'Which is "{element.name}"?', element.ref
                else:
                    continue
                content = [{"type": "image"}, {"type": "text", "text": f"{tell(env.goal, elements)}\n{question}"}]
                asked.append(backbone.encode([{"role": "user", "content": content}], [Image.fromarray(env._image)]))
                truth.append(answer)
    answers = [action.text for action in backbone.generate(asked, max_new_tokens=8)]
    assert len(asked) >= 50 and np.mean([a == fact for a, fact in zip(answers, truth, strict=True)]) > 0.85


def test_the_pretraining_script_learns_from_pages(chromium, tmp_path):
    command = [
        sys.executable, "examples/pretrain_tiny_vlm.py", "--output_dir", str(tmp_path), "--domain", "miniwob",
        "--num_layouts", "6", "--steps", "2", "--batch_size", "4", "--held_out", "6",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=REPOSITORY, capture_output=True)
    assert np.isfinite(json.loads((tmp_path / "pretraining.json").read_text())["loss"])
