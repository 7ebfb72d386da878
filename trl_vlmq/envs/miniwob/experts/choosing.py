# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Experts for tasks in which something is chosen: checkboxes, options, lists, dates."""

import calendar
import re

from trl_vlmq.envs.miniwob.actions import Call
from trl_vlmq.envs.miniwob.experts.view import Expert, View, click, submit


def checkboxes(view: View) -> Call | None:
    named = re.match(r"Select (.*) and click Submit", view.goal)[1]
    wanted = set() if named == "nothing" else set(named.split(", "))
    wrong = next((box for box in view.all("checkbox") if box.checked != (box.name in wanted)), None)
    return click(wrong) or submit(view)


def radio_button(view: View) -> Call | None:
    option = view.first("radio", name=re.match(r"Select (.*) and click Submit", view.goal)[1])
    return click(option) if option is not None and not option.checked else submit(view)


def listed_options(view: View) -> Call | None:
    names = re.match(r"Select (.*) from the (?:scroll )?list and click Submit", view.goal)[1]
    field = view.first("combobox", "listbox")
    if field is None:
        return None
    labels = [label for label, _ in field.options]
    # An option may have a comma in it.
    wanted = (names,) if names in labels else tuple(names.split(", "))
    if tuple(label for label, selected in field.options if selected) == tuple(
        label for label in labels if label in wanted
    ):
        return submit(view)
    return Call("select_option", (field.ref, wanted))


def picked_date(view: View) -> Call | None:
    date = re.search(r"(\d+)/(\d+)/(\d+)", view.goal)
    field = view.first("textbox")
    if field is not None and field.value == date[0]:
        return submit(view)
    month, day, year = map(int, date.groups())
    names = list(calendar.month_name)
    shown = next((names.index(e.name) for e in view.page if e.name in names[1:]), None)
    if shown is None:
        return click(field)
    shown_year = next((int(e.name) for e in view.page if re.fullmatch(r"\d{4}", e.name)), year)
    if (shown_year, shown) != (year, month):
        return click(view.first("link", "text", name="Prev" if (shown_year, shown) > (year, month) else "Next"))
    return click(view.first("link", name=str(day)))


def spinner(view: View) -> Call | None:
    field, wanted = view.first("spinbutton"), str(view.number(r"Select (-?\d+)"))
    return Call("fill", (field.ref, wanted)) if field is not None and field.value != wanted else submit(view)


EXPERTS: dict[str, Expert] = {
    "click-checkboxes": checkboxes,
    "click-checkboxes-large": checkboxes,
    "click-checkboxes-transfer": checkboxes,
    "click-option": radio_button,
    "choose-list": listed_options,
    "click-scroll-list": listed_options,
    "choose-date": picked_date,
    "choose-date-easy": picked_date,
    "choose-date-medium": picked_date,
    "choose-date-nodelay": picked_date,
    "use-spinner": spinner,
}
