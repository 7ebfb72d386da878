# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The action dialect, BrowserGym's: one call with literal arguments, such as `click('4')`. Parsed, never evaluated."""

import ast
import inspect
import re
import unicodedata
import warnings
from typing import NamedTuple


# What Python's compiler would warn of in the text of a model, such as "1if", is nothing that a person could mend.
SOURCE = "<action>"
warnings.filterwarnings("ignore", category=SyntaxWarning, module=SOURCE)

# Longer text is no action. It also bounds how deeply a model can nest what Python's parser must read.
MAX_LENGTH = 1000

KEYS = {
    "Enter": "\ue007",
    "Tab": "\ue004",
    "Escape": "\ue00c",
    "Backspace": "\ue003",
    "Delete": "\ue017",
    "Space": " ",
    "Home": "\ue011",
    "End": "\ue010",
    "PageUp": "\ue00e",
    "PageDown": "\ue00f",
    "ArrowLeft": "\ue012",
    "ArrowUp": "\ue013",
    "ArrowRight": "\ue014",
    "ArrowDown": "\ue015",
}
MODIFIERS = {"Shift": "\ue008", "Control": "\ue009"}
# With Control nothing but editing, and Enter always alone: other combinations are the browser's own, or open windows.
CARET_KEYS = {"Home", "End", "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"}
CONTROL_KEYS = CARET_KEYS | {*"acvxz", "Backspace", "Delete"}


class Call(NamedTuple):
    """
    A parsed action.

    Args:
        name (`str`):
            One of [`SIGNATURES`].
        arguments (`tuple`):
            Its arguments, in order: each a `str`, a `float` or a tuple of `str`.
    """

    name: str
    arguments: tuple


def _ref(value):
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,6}", value):
        raise ValueError("must be the number of an element, as '4'")
    return value


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e5:  # NaN neither
        raise ValueError("must be a number")
    return float(value)


def _text(value):
    if not isinstance(value, str) or any(
        unicodedata.category(c) in ("Cc", "Cs", "Co") and c not in "\n\t" for c in value
    ):
        raise ValueError("must be a text without control characters")
    return value


def split_key(key: str) -> list[str]:
    """`"Shift+a"` -> `["Shift", "a"]`."""
    return key.split("+") if key != "+" else ["+"]


def _options(value):
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values:
        raise ValueError("must name an option")
    return tuple(map(_text, values))


def _key(value):
    *modifiers, last = split_key(value) if isinstance(value, str) else [""]
    if (
        not (last in KEYS or (len(last) == 1 and last.isprintable()))
        or not set(modifiers) <= set(MODIFIERS)
        or len(set(modifiers)) < len(modifiers)
        or (modifiers and last == "Enter")
        or ("Control" in modifiers and last not in (CARET_KEYS if "Shift" in modifiers else CONTROL_KEYS))
    ):
        raise ValueError(
            f"must be a character or one of {', '.join(KEYS)}, perhaps after Shift+, or Control+ with a key that edits"
        )
    return value


# The actions with what each argument must be. The help lists them in this order.
SIGNATURES = {
    "noop": {},
    "click": {"ref": _ref},
    "dblclick": {"ref": _ref},
    "hover": {"ref": _ref},
    "focus": {"ref": _ref},
    "fill": {"ref": _ref, "text": _text},
    "select_option": {"ref": _ref, "options": _options},
    "press": {"ref": _ref, "key": _key},
    "drag_and_drop": {"from_ref": _ref, "to_ref": _ref},
    "scroll": {"dx": _number, "dy": _number},
    "keyboard_press": {"key": _key},
    "keyboard_type": {"text": _text},
    "mouse_click": {"x": _number, "y": _number},
    "mouse_dblclick": {"x": _number, "y": _number},
    "mouse_move": {"x": _number, "y": _number},
    "mouse_down": {},
    "mouse_up": {},
    "mouse_drag_and_drop": {"from_x": _number, "from_y": _number, "to_x": _number, "to_y": _number},
}

_PARAMETERS = {
    name: inspect.Signature([inspect.Parameter(p, inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in checks])
    for name, checks in SIGNATURES.items()
}


class BrowserActionGrammar:
    """
    One call of one action with literal arguments, in the dialect of BrowserGym's `bid` and `coord` actions.

    The whole text must be that call, white space around it apart. Arguments may be given by name. The action is the
    call in one spelling: positional, single quotes where Python's `repr` has them, `'4'` for an element given as `4`.
    """

    def format(self, action: str) -> str:
        written = write_call(read_call(action))
        if len(written) > MAX_LENGTH:  # what was one character may be written as ten
            raise ValueError(f"an action has at most {MAX_LENGTH} characters, and this is written with {len(written)}")
        return written

    def parse(self, text: str) -> str | None:
        try:
            return self.format(text)
        except ValueError:
            return None

    def problem(self, text: str) -> str | None:
        """What is wrong with a text, for the agent to read; `None` if it is an action."""
        try:
            self.format(text)
        except ValueError as error:
            return str(error)
        return None

    def describe(self) -> str:
        calls = ", ".join(f"{name}({', '.join(checks)})" for name, checks in SIGNATURES.items())
        return f"Actions: {calls}.\nAnswer with one call, such as click('4')."


def write_call(call: Call) -> str:
    """The one spelling of a call."""
    return f"{call.name}({', '.join(_write(argument) for argument in call.arguments)})"


def read_call(text: str) -> Call:
    """
    Reads a call. Nothing of the text is ever evaluated: it is parsed to a syntax tree, whose literals are read.

    Raises:
        ValueError: the text is not an action; it says why, quoting little of it.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"an action has at most {MAX_LENGTH} characters, and these are {len(text)}")
    try:
        tree = ast.parse(text.strip(), SOURCE, "eval").body
        ok = isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the parser raises at what models write
        ok = False
    if not ok:
        raise ValueError("an answer is one call, such as click('4')")
    name = tree.func.id
    if name not in SIGNATURES:
        raise ValueError(f"there is no action {name[:40]!r}")
    checks = SIGNATURES[name]
    usage = f"{name}({', '.join(checks)})"
    try:
        given = [ast.literal_eval(node) for node in tree.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords}
        bound = _PARAMETERS[name].bind(*given, **named).arguments
    except (TypeError, ValueError, RecursionError, MemoryError):  # an expression, **, a wrong number of arguments
        raise ValueError(f"write it as {usage} with plain values") from None
    arguments = []
    for parameter, value in bound.items():
        try:
            arguments.append(checks[parameter](value))
        except ValueError as error:
            raise ValueError(f"{parameter} of {usage} {error}") from None
    return Call(name, tuple(arguments))


def _write(argument: str | float | tuple[str, ...]) -> str:
    if isinstance(argument, float):
        return repr(int(argument) if argument.is_integer() else argument)
    if isinstance(argument, tuple):
        return repr(argument[0] if len(argument) == 1 else list(argument))
    return repr(argument)
