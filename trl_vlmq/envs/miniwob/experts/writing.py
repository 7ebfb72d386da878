# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Experts for tasks in which something is written: texts, logins, answers, forms."""

import re
from datetime import datetime

from trl_vlmq.envs.miniwob.actions import Call
from trl_vlmq.envs.miniwob.experts.view import Expert, View, click, fill, ordinal, submit


def quoted_into_the_field(view: View) -> Call | None:
    return fill([(view.first("textbox"), view.quoted[0])]) or submit(view)


def in_another_case(view: View) -> Call | None:
    text = view.quoted[0].lower() if "lower case" in view.goal else view.quoted[0].upper()
    return fill([(view.first("textbox"), text)]) or submit(view)


def password_twice(view: View) -> Call | None:
    return fill((field, view.quoted[0]) for field in view.all("textbox")) or submit(view)


def date(view: View) -> Call | None:
    month, day, year = re.search(r"(\d+)/(\d+)/(\d+)", view.goal).groups()
    return fill([(view.first("date"), f"{year}-{month}-{day}")]) or submit(view)


def time(view: View) -> Call | None:
    wanted = datetime.strptime(re.search(r"\d+:\d+ [AP]M", view.goal)[0], "%I:%M %p")
    return fill([(view.first("time"), f"{wanted:%H:%M}")]) or submit(view)


def login(view: View) -> Call | None:
    interruption = view.first("button", name="Cancel")
    if interruption is not None:
        return click(interruption)
    user, password = view.quoted
    filled = fill([(view.first(id="username"), user), (view.first(id="password"), password)])
    return filled or click(view.first(id="subbtn"))


def one_value_of_a_table(view: View) -> Call | None:
    cells = view.all("cell")
    label = re.search(r"value of (.*) into", view.goal)[1]
    value = next(b.name for a, b in zip(cells[::2], cells[1::2], strict=True) if a.name == label)
    return fill([(view.first("textbox"), value)]) or submit(view)


def values_of_a_table(view: View) -> Call | None:
    cells = view.all("cell")
    table = {a.name: b.name for a, b in zip(cells[::2], cells[1::2], strict=True)}
    labels = view.all("label")
    return fill((view.after(label, "textbox"), table[label.name.rstrip(":")]) for label in labels) or submit(view)


def arithmetic(view: View) -> Call | None:
    a, operator, b = re.match(r"(\d+) (.) (\d+) =", view.page[0].name).groups()
    result = {"+": int(a) + int(b), "-": int(a) - int(b)}.get(operator, int(a) * int(b))
    return fill([(view.first("textbox", "spinbutton"), str(result))]) or submit(view)


def algebra(view: View) -> Call | None:
    a, operator, b, c = re.match(r"(\w+) (.) (\w+) = (-?\d+)", view.page[0].name).groups()
    if operator == "+":
        x = int(c) - int(b if a == "x" else a)
    else:
        x = int(c) + int(b) if a == "x" else int(a) - int(c)
    return fill([(view.first("textbox", "spinbutton"), str(x))]) or submit(view)


def copied_text(view: View) -> Call | None:
    sources = view.all(tag="textarea")
    source = sources[ordinal(view) - 1] if len(sources) > 1 else sources[0]
    return fill([(view.first(id="answer-input"), source.value)]) or submit(view)


def numbered_word(view: View) -> Call | None:
    word = view.first("text").name.split()[ordinal(view) - 1]
    return fill([(view.first("textbox"), word.strip(".,"))]) or submit(view)


def last_word(view: View) -> Call | None:
    word = view.first(id="text-area").value.split()[-1]
    return fill([(view.first(id="answer-input"), word.strip(".,"))]) or submit(view)


def distorted_text(view: View) -> Call | None:
    text = "".join(letter.name for letter in view.all("text"))
    return fill([(view.first("textbox"), text)]) or submit(view)


def count_of_blocks(view: View) -> Call | None:
    blocks = [e for e in view.all("box") if "addition-block" in e.classes]
    return fill([(view.first("textbox", "spinbutton"), str(len(blocks)))]) or submit(view)


def movie_search(view: View) -> Call | None:
    genre, director, year = re.match(r"Search for (\w+) movies directed by (.*) from year (\d+)", view.goal).groups()
    values = {"genre": genre, "director": director, "year": year, "date": year}
    names = " ".join(label.name.lower() for label in view.all("text", "cell", "label"))
    # Names stand before their fields or after them, but always in the order of the fields.
    in_order = [values[word] for word in re.findall("|".join(values), names)]
    return fill(list(zip(view.all("textbox"), in_order, strict=True))) or submit(view)


def autocomplete(view: View) -> Call | None:
    start, *end = view.quoted
    field = view.first("textbox")
    if field is None:
        return None

    def fits(text):
        return text.startswith(start) and all(map(text.endswith, end))

    if fits(field.value) and len(field.value) > len(start):
        return submit(view)
    offered = next((e for e in view.all("text") if fits(e.name)), None)
    # Typed anew where nothing is offered although the beginning is there: the list closes when the focus goes.
    return click(offered) or Call("fill", (field.ref, start))


def guessed_number(view: View) -> Call | None:
    field = view.first("spinbutton")
    hint = re.search(r"(lower|higher) than \. (\d+)", " ".join(e.name for e in view.page))
    guess = 5 if hint is None else int(hint[2]) + (1 if hint[1] == "higher" else -1)
    return fill([(field, str(guess))]) or submit(view)


EXPERTS: dict[str, Expert] = {
    "enter-text": quoted_into_the_field,
    "enter-text-dynamic": quoted_into_the_field,
    "enter-text-2": in_another_case,
    "enter-password": password_twice,
    "enter-date": date,
    "enter-time": time,
    "login-user": login,
    "login-user-popup": login,
    "read-table": one_value_of_a_table,
    "read-table-2": values_of_a_table,
    "simple-arithmetic": arithmetic,
    "simple-algebra": algebra,
    "copy-paste": copied_text,
    "copy-paste-2": copied_text,
    "find-word": numbered_word,
    "scroll-text": last_word,
    "text-transform": distorted_text,
    "visual-addition": count_of_blocks,
    "multi-layouts": movie_search,
    "multi-orderings": movie_search,
    "use-autocomplete": autocomplete,
    "use-autocomplete-nodelay": autocomplete,
    "guess-number": guessed_number,
}
