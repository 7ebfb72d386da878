# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pages of MiniWoB++ with questions and answers about them, for examples/pretrain_tiny_vlm.py.

Questions are about what there is to see and to read: where things are, which element has a name, a role or a state, which
ones a goal names. A page is seen with its goal and elements told beside it, as the environment tells them, with a goal that
is made up, and sometimes as a picture only. Never about an action.
"""

import random
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from trl_vlmq.envs.miniwob.browser import HEIGHT, WIDTH
from trl_vlmq.envs.miniwob.elements import Element, describe_elements, hex_color
from trl_vlmq.envs.miniwob.env import MiniWoBEnv
from trl_vlmq.envs.miniwob.tasks import task_names
from trl_vlmq.envs.placeholders import without_placeholders


DESCRIBE = "Describe what you see."
IMAGE_SIZE = 112
VOCABULARY = 1024
LONGEST_TEXT = 320  # characters: pages that tell more make every batch longer
MOST_REFS = 5
PICTURE_ONLY = 0.5
COLORS = {
    "#ff0000": "red", "#0000ff": "blue", "#00ff00": "green", "#008000": "green", "#ffff00": "yellow", "#000000": "black",
    "#ffffff": "white", "#808080": "grey", "#ffc0cb": "pink", "#800080": "purple", "#ffa500": "orange", "#a52a2a": "brown",
    "#00ffff": "cyan", "#ff00ff": "magenta",
}  # fmt: skip
# Wording that environments use, for the tokenizer's merges only; the weights are never trained on it.
TOKENIZER_TEXTS = (
    "click('1')", "click('2')", "dblclick('3')", "hover('4')", "focus('5')", "fill('6', 'text')", "fill('12', 'Ab')",
    "select_option('7', 'x')", "press('8', 'Enter')", "press('1', 'ArrowLeft')", "keyboard_press('Tab')", "noop()",
    "scroll(0, 50)", "scroll(0, -50)", "mouse_click(80, 100)", "mouse_drag_and_drop(80, 60, 20, 150)",
    "drag_and_drop('3', '4')", "\nError: there is no element '9'.", "\nEarlier: click('4'); noop().",
)  # fmt: skip


@dataclass
class View:
    """One page with what may be asked about it."""

    image: np.ndarray | None  # uint8 [112, 112, 3]
    description: str
    goal: str
    elements: list[Element]
    text: str = ""  # told beside the picture


def generate_views(num_layouts: int, rng: random.Random, views_per_layout: int = 5) -> list[View]:
    """Random pages of all tasks, as they are at first and after random actions."""
    env = MiniWoBEnv(task_names(), list_actions=False, max_steps=views_per_layout)
    draws = np.random.default_rng(rng.randrange(2**31))
    views = []
    for _ in tqdm(range(num_layouts), desc="views", mininterval=2):
        obs, _ = env.reset(seed=rng.randrange(2**31))
        ended = False
        while not ended and (found := views_of(env, obs["image"], rng)):
            views += found
            obs, _, terminated, truncated, _ = env.step(env.draw_legal_action(draws))
            ended = terminated or truncated
    env.close()
    return views


def tell(goal: str, elements: list[Element]) -> str:
    """What the environment tells of a page."""
    return without_placeholders(f"Goal: {goal}\n{describe_elements(elements, 'list')}")


def views_of(env: MiniWoBEnv, image: np.ndarray, rng: random.Random) -> list[View]:
    """The page with its goal, with one that is made up, and sometimes without any text; nothing if it tells too much."""
    elements = [element for element in env.page if not element.group]
    if not any(element.in_view for element in elements) or len(describe_elements(elements, "list")) > LONGEST_TEXT:
        return []
    picture = np.asarray(Image.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
    goals = filter(None, (env.goal, made_up_goal(elements, rng)))
    texts = [(goal, tell(goal, elements)) for goal in goals]
    if rng.random() < PICTURE_ONLY:
        texts.append(("", ""))
    description = describe(elements)
    return [View(picture, description, goal, elements, text) for goal, text in texts]


def made_up_goal(elements: list[Element], rng: random.Random) -> str | None:
    """A goal that names some of the elements; `None` if none has a name."""
    names = [element.name for element in elements if askable(element)]
    if not names:
        return None
    chosen = rng.sample(names, min(len(names), rng.choice((1, 1, 2, 3))))
    quoted = [f'"{name}"' if rng.random() < 0.7 else name for name in chosen]
    opening = rng.choice(("Find", "Look for", "This is about", "There may be", "Where is", "Read"))
    return f"{opening} {rng.choice((', ', ' and ', ', then ')).join(quoted)}."


def askable(element: Element) -> bool:
    return 0 < len(element.name) <= 30


def describe(elements: list[Element]) -> str:
    """Roles and places of what is in view, from the top; the first eight."""
    ordered = sorted((e for e in elements if e.in_view), key=lambda e: (round(e.y / 8), e.x))[:8]
    return "; ".join(f"{element.role} {place(element)}" for element in ordered)


def place(element: Element) -> str:
    """One of five rows and three columns of the picture."""
    if not element.in_view:
        return "out of view"
    row = ("top", "upper", "middle", "lower", "bottom")[min(4, max(0, int(5 * element.y / HEIGHT)))]
    return f"{row} {('left', 'centre', 'right')[min(2, max(0, int(3 * element.x / WIDTH)))]}"


def refs(elements: list[Element]) -> str:
    return " ".join(element.ref for element in elements[:MOST_REFS]) or "none"


def ask(view: View, rng: random.Random) -> tuple[str, str]:
    """A question about the view, and its answer."""
    if not view.text:
        return ask_of_picture(view, rng)
    chance = rng.random()
    if chance < 0.35:
        return ask_for_name(view, rng)
    if chance < 0.55:
        named = [e for e in view.elements if askable(e) and re.search(rf"(?<!\w){re.escape(e.name)}(?!\w)", view.goal)]
        return "Which does the goal name?", refs(named)
    if chance < 0.6:
        return "What does the goal quote?", ", ".join(re.findall(r'"([^"]*)"', view.goal)) or "nothing"
    element = rng.choice(view.elements)
    if chance < 0.7:
        alike = [e for e in view.elements if e.role == element.role]
        if rng.random() < 0.5:
            return f"Which are of role {element.role}?", refs(alike)
        position = rng.randrange(min(len(alike), 5))
        return f"Which is {element.role} number {position + 1}?", alike[position].ref
    if chance < 0.8:
        return f"What is {element.ref}?", f"{element.role} {element.name[:30]}".strip()
    if chance < 0.9:
        return f"Where is {element.ref}?", place(element)
    if chance < 0.95:
        colors = {COLORS[c]: e.ref for e in reversed(view.elements) if (c := hex_color(e.color)) in COLORS}
        color = rng.choice(list(colors) or ["red"])
        return f"Which is {color}?", colors.get(color, "none")
    state = rng.choice(("checked", "unchecked", "selected", "focused"))
    return f"Which are {state}?", refs([e for e in view.elements if has_state(e, state)])


def ask_of_picture(view: View, rng: random.Random) -> tuple[str, str]:
    seen = [element for element in view.elements if element.in_view]
    chance, element = rng.random(), rng.choice(seen)
    if chance < 0.15:
        return DESCRIBE, view.description
    if chance < 0.6:
        there = {e.role for e in seen if place(e) == place(element)}
        return f"What is at the {place(element)}?", ", ".join(sorted(there))
    alike = [e for e in seen if e.role == element.role]
    if chance < 0.8:
        return f"How many of role {element.role}?", str(len(alike))
    return f"Where is the first {element.role}?", place(alike[0])


def ask_for_name(view: View, rng: random.Random) -> tuple[str, str]:
    names = [element.name for element in view.elements if askable(element)]
    if not names or rng.random() < 0.05:
        return 'Which is "nobody"?', refs([e for e in view.elements if e.name == "nobody"])
    name = rng.choice(names)
    alike = [element for element in view.elements if element.name == name]
    role = rng.choice(alike).role
    if rng.random() < 0.4:
        return f'Which {role} is "{name}"?', refs([e for e in alike if e.role == role])
    return (f'Which is "{name}"?' if rng.random() < 0.5 else f"Which is {name}?"), refs(alike)


def has_state(element: Element, state: str) -> bool:
    if state.endswith("checked"):
        return element.checked is (state == "checked")
    return getattr(element, state)


def kind_of(question: str) -> str:
    """Which kind a question is: its first word, and whether it is about the goal."""
    return "goal" if "goal" in question else question.split()[0].lower()
