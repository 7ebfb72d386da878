# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a model may write: which text is which action, and that none of it is ever executed."""

import builtins
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_vlmq.envs.checker import GARBAGE
from trl_vlmq.envs.miniwob.actions import SIGNATURES, BrowserActionGrammar, Call, read_call, write_call


GRAMMAR = BrowserActionGrammar()


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("click('4')", "click('4')"),
        (' click( "4" ) \n', "click('4')"),
        ("click(4)", "click('4')"),
        ("click(ref='4')", "click('4')"),
        ("fill('5', 'it''s')", "fill('5', 'its')"),
        ("fill('5', \"it's\")", "fill('5', \"it's\")"),
        ("fill('5', '')", "fill('5', '')"),
        ("fill(text='a', ref=5)", "fill('5', 'a')"),
        ("select_option('3', ['x'])", "select_option('3', 'x')"),
        ("select_option('3', ['x', 'y'])", "select_option('3', ['x', 'y'])"),
        ("mouse_click(10, 20.50)", "mouse_click(10, 20.5)"),
        ("scroll(0, -50)", "scroll(0, -50)"),
        ("keyboard_press('Control+a')", "keyboard_press('Control+a')"),
        ("keyboard_press('+')", "keyboard_press('+')"),
        ("noop()", "noop()"),
    ],
)
def test_one_action_has_one_spelling(text, action):
    assert GRAMMAR.parse(text) == action == GRAMMAR.parse(action) == GRAMMAR.format(action)
    assert GRAMMAR.problem(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I click on it", "one call"),
        ("click", "one call"),
        ("click('4'); click('5')", "one call"),
        ("click('4')('5')", "one call"),
        ("page.click('4')", "one call"),
        ("tap('4')", "no action 'tap'"),
        ("click()", r"write it as click\(ref\)"),
        ("click('4', 'left')", r"write it as click\(ref\)"),
        ("click(*['4'])", r"write it as click\(ref\)"),
        ("click(**{'ref': '4'})", r"write it as click\(ref\)"),
        ("click('four')", "number of an element"),
        ("click(True)", "number of an element"),
        ("click('-1')", "number of an element"),
        ("mouse_click('1', 2)", "x of mouse_click.* must be a number"),
        ("mouse_click(1e999, 2)", "must be a number"),
        ("mouse_click(1j, 2)", "must be a number"),
        ("fill('5', 7)", "text of fill"),
        ("fill('5', '\\x00')", "control characters"),
        ("fill('5', '\\ud800')", "control characters"),
        ("select_option('3', [])", "name an option"),
        ("keyboard_press('F5')", "must be a character or one of Enter"),
        ("keyboard_press('Control+w')", "must be a character or one of Enter"),
        ("keyboard_press('Control+Enter')", "must be a character or one of Enter"),
        ("press('4', 'Shift+Enter')", "must be a character or one of Enter"),
        ("keyboard_press('Control+Tab')", "must be a character or one of Enter"),
        ("keyboard_press('Control+Shift+c')", "must be a character or one of Enter"),
        ("keyboard_press('Control+Shift+Delete')", "must be a character or one of Enter"),
        ("keyboard_press(['Enter'])", "must be a character or one of Enter"),
        ("press('5', {'a': 1})", "must be a character or one of Enter"),
        (f"mouse_click(1{'0' * 400}, 2)", "must be a number"),
        ("fill('5', '" + 300 * "\xa0" + "')", "this is written with 1213"),
        ("keyboard_press('Alt+ArrowLeft')", "must be a character or one of Enter"),
    ],
)
def test_a_mistake_is_described(text, said):
    assert GRAMMAR.parse(text) is None
    with pytest.raises(ValueError, match=said):
        GRAMMAR.format(text)
    assert len(GRAMMAR.problem(text)) < 400


CODE = [
    "__import__('os').system('touch {path}')",
    "click(__import__('os').system('touch {path}'))",
    "click(open('{path}', 'w'))",
    "fill('1', f'{{open(\"{path}\", \"w\")}}')",
    "fill('1', (lambda: open('{path}', 'w'))())",
    "[click('1') for _ in [open('{path}', 'w')]]",
    "click('1') if open('{path}', 'w') else noop()",
    "noop() or open('{path}', 'w')",
    "noop(open('{path}', 'w'))",
    "exec('click(1)')",
]


@pytest.mark.parametrize("code", CODE)
def test_code_is_an_invalid_action_and_does_not_run(code, tmp_path, monkeypatch):
    path = tmp_path / "made"

    def refuse(*args, **kwargs):
        raise AssertionError("evaluated")

    compile_ = builtins.compile
    tree_only = 1024  # ast.PyCF_ONLY_AST: what `ast.parse` asks of `compile`
    monkeypatch.setattr(builtins, "compile", lambda *a, **k: compile_(*a, **k) if tree_only in a else refuse())
    monkeypatch.setattr(builtins, "eval", refuse)
    monkeypatch.setattr(builtins, "exec", refuse)
    monkeypatch.setattr(os, "system", refuse)
    assert GRAMMAR.parse(code.format(path=path)) is None
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [*GARBAGE, "click('4')" * 1000, "(" * 10_000, "-" * 999, "[" * 900, "click(" * 100, "noop()\x00", "\x1b[2J", "9" * 999, "click('4'" + " " * 9_991],
)  # fmt: skip
def test_no_text_makes_the_parser_fail(text):
    assert GRAMMAR.parse(text) is None
    assert "\x00" not in GRAMMAR.problem(text)


def test_what_a_model_writes_raises_no_warnings_of_python():
    code = (
        "from trl_vlmq.envs.miniwob.actions import BrowserActionGrammar as G; print(G().parse('click(1if 2else 3)'))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "None\n" and "Warning" not in result.stderr


def test_a_long_text_is_refused_by_its_length():
    assert "at most 1000 characters, and these are 10000" in GRAMMAR.problem("x" * 10_000)


arguments = {
    "ref": st.integers(0, 999_999).map(str),
    "text": st.text(st.characters(exclude_categories=["Cc", "Cs", "Co"]), max_size=50),
    "number": st.floats(-1e5, 1e5),
}


@given(ref=arguments["ref"], text=arguments["text"], x=arguments["number"], y=arguments["number"])
def test_what_is_written_is_read_back(ref, text, x, y):
    for call in (
        Call("fill", (ref, text)),
        Call("select_option", (ref, (text,))),
        Call("select_option", (ref, (text, "b"))),
        Call("mouse_drag_and_drop", (x, y, y, x)),
    ):
        assert read_call(write_call(call)) == call
        assert GRAMMAR.parse(write_call(call)) == write_call(call)


@given(st.text(max_size=200) | st.text("click('4)[]{},=*\\\"#\n", max_size=60))
def test_any_text_is_an_action_or_has_a_described_problem(text):
    action = GRAMMAR.parse(text)
    assert (action is None) == (GRAMMAR.problem(text) is not None)
    assert action is None or GRAMMAR.parse(action) == action


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text(max_size=20) | st.binary(max_size=5)
    | st.sampled_from(["4", "Enter", "Control+a", "+", "Shift+", 10**400, "\xa0" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2) | st.tuples(inner),
    max_leaves=4,
)  # fmt: skip


@given(st.sampled_from(sorted(SIGNATURES)), st.lists(literals, max_size=5))
def test_a_call_with_any_literals_is_an_action_or_has_a_described_problem(name, given_):
    text = f"{name}({', '.join(map(repr, given_))})"
    action = GRAMMAR.parse(text)
    assert (action is None) == (GRAMMAR.problem(text) is not None)
    assert action is None or GRAMMAR.parse(action) == action


def test_the_help_names_every_action():
    assert all(f"{name}(" in GRAMMAR.describe() for name in SIGNATURES)
