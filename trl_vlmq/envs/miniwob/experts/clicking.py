# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Experts for tasks in which one thing must be clicked, or a few."""

import re

from trl_vlmq.envs.miniwob.actions import Call
from trl_vlmq.envs.miniwob.elements import hex_color
from trl_vlmq.envs.miniwob.experts.view import Expert, View, click, ordinal


# CSS's names of the colours that click-color asks for.
COLORS = {
    "red": "#ff0000", "blue": "#0000ff", "olive": "#808000", "lime": "#00ff00", "black": "#000000", "white": "#ffffff",
    "grey": "#808080", "purple": "#800080", "orange": "#ffa500", "yellow": "#ffff00", "cyan": "#00ffff",
    "pink": "#ffc0cb", "magenta": "#ff00ff",
}  # fmt: skip


def the_button(view: View) -> Call | None:
    return click(view.first("button"))


def button_one(view: View) -> Call | None:
    return click(view.first("button", name="ONE"))


def button_sequence(view: View) -> Call | None:
    last = view.memory.get("last")
    view.memory["last"] = "TWO" if last == "ONE" else "ONE"
    return click(view.first("button", name=view.memory["last"]))


def quoted_button(view: View) -> Call | None:
    return click(view.first("button", name=view.quoted[0]))


def quoted_text(view: View) -> Call | None:
    return click(view.first("text", "link", name=view.quoted[0]))


def colored_box(view: View) -> Call | None:
    color = COLORS[re.search(r"on the (\w+) colored", view.goal)[1]]
    return click(next((e for e in view.all("box") if hex_color(e.color) == color), None))


def close_dialog(view: View) -> Call | None:
    return click(view.first("button", name="Close"))


def dialog_button(view: View) -> Call | None:
    return click(view.first("button", name={"x": "Close"}.get(view.quoted[0], view.quoted[0])))


def widget(view: View) -> Call | None:
    kind = view.quoted[0]
    fits = {
        "radio": lambda e: e.role == "radio",
        "checkbox": lambda e: e.role == "checkbox",
        "button": lambda e: e.role == "button",
        "textarea": lambda e: e.tag == "textarea",
        "text": lambda e: e.tag == "input" and e.role == "textbox",
    }[kind]
    return click(next(filter(fits, view.page), None))


def shape(view: View) -> Call | None:
    figure = view.page[0]
    kinds = {"circle": "Circle", "rect": "Rectangle", "polygon": "Triangle"}
    letter = "Number" if figure.name.isdigit() else "Letter"
    return click(view.first("button", name=kinds.get(figure.tag, letter)))


def the_textbox(view: View) -> Call | None:
    return click(view.first("textbox"))


def numbered_textbox(view: View) -> Call | None:
    return click(view.all("textbox")[ordinal(view) - 1])


def grid_point(view: View) -> Call | None:
    return click(view.first(id=re.search(r"\(-?\d,-?\d\)", view.goal)[0]))


def ticket(view: View) -> Call | None:
    def price(button):
        return int(button.name.split("$")[1])

    def minutes(button):
        index = view.page.index(button)
        hours, rest = re.match(r"(\d+)h (\d+)m", view.page[index - 1].name).groups()
        return 60 * int(hours) + int(rest)

    buttons = view.all("button")
    key = price if "cost" in view.goal else minutes
    best = min if "cheapest" in view.goal or "shortest" in view.goal else max
    return click(best(buttons, key=key))


def odd_or_even(view: View) -> Call | None:
    for number in view.all("text"):
        index = view.page.index(number)
        button = view.page[index - 1 if int(number.name) % 2 else index + 1]
        if not button.selected:
            return click(button)
    return click(view.first("button", name="Submit"))


EXPERTS: dict[str, Expert] = {
    "click-test": the_button,
    "click-test-2": button_one,
    "click-test-transfer": button_one,
    "click-button": quoted_button,
    "unicode-test": quoted_button,
    "click-button-sequence": button_sequence,
    "click-link": quoted_text,
    "click-color": colored_box,
    "click-dialog": close_dialog,
    "click-dialog-2": dialog_button,
    "click-widget": widget,
    "identify-shape": shape,
    "focus-text": the_textbox,
    "focus-text-2": numbered_textbox,
    "grid-coordinate": grid_point,
    "buy-ticket": ticket,
    "odd-or-even": odd_or_even,
}
