# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which tokens of an action the metrics call syntax, choice and stop."""

import pytest

from trl_vlmq.backbones.tiny import build_tiny_tokenizer
from trl_vlmq.roles import TokenRole, token_roles


@pytest.fixture(scope="module")
def by_character(tiny_vlm):
    """One role letter per character of an action: s(yntax), c(hoice), and . for the stop token."""
    tokenizer = tiny_vlm[1].tokenizer

    def spell(text: str, stopped: bool = True) -> str:
        ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * stopped
        roles = token_roles(ids, stopped, lambda part: tokenizer.decode(part, skip_special_tokens=True))
        assert len(roles) == len(ids)
        return "".join({TokenRole.SYNTAX: "s", TokenRole.CHOICE: "c", TokenRole.STOP: "."}[role] for role in roles)

    return spell


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ('{"action": "go forward"}', ["go forward"]),
        ('{"action":"hit"}', ["hit"]),
        ('{ "action" : "hit" }', ["hit"]),
        ('{"thought": "the ball: left", "action": "turn left"}', ["the ball: left", "turn left"]),
        ('{"x": 12, "fast": true, "why": "no"}', ["12", "true", "no"]),
        ('{"x": -1.5e3}', ["-1.5e3"]),
        ('{"a": {"b": "c"}}', ["c"]),
        (r'{"say": "a \"quoted\" word", "n": 1}', [r"a \"quoted\" word", "1"]),
        ('{"action": "cut off', ["cut off"]),
    ],
)
def test_values_of_json_are_choices(by_character, text, choices):
    expected, start = list("s" * len(text)), 0
    for choice in choices:
        start = text.index(choice, start)
        expected[start : start + len(choice)] = "c" * len(choice)
        start += len(choice)
    assert by_character(text) == "".join(expected) + "."


@pytest.mark.parametrize(
    "text", ["go forward", "click('4')", "fill('5', '10:30')", "goto('http://a.b/c')", "Action: left"]
)
def test_text_without_json_is_all_choice(by_character, text):
    """A colon alone does not make a value: times and addresses occur in web actions."""
    assert by_character(text) == "c" * len(text) + "."


def test_an_empty_action_is_a_stop_and_an_unfinished_one_has_none(by_character):
    assert by_character("") == "."
    assert by_character("go", stopped=False) == "cc"
    assert by_character('{"a": "b', stopped=False) == "s" * 7 + "c"


def test_a_token_that_holds_both_syntax_and_choice_is_a_choice():
    """With merged tokens `"left` may be one token: the decision is in it."""
    words = ['{"action": "', "left", '"}']
    roles = token_roles([0, 1, 2], False, lambda ids: "".join(words[i] for i in ids))
    assert roles == [TokenRole.SYNTAX, TokenRole.CHOICE, TokenRole.SYNTAX]
    merged = ['{"action":', ' "le', 'ft"', "}"]
    roles = token_roles([0, 1, 2, 3], False, lambda ids: "".join(merged[i] for i in ids))
    assert roles == [TokenRole.SYNTAX, TokenRole.CHOICE, TokenRole.CHOICE, TokenRole.SYNTAX]


def test_letters_of_several_bytes_are_choices_too():
    tokenizer = build_tiny_tokenizer(['{"say": "go"}'] * 5, vocab_size=300)
    text = '{"say": "größer"}'
    ids = tokenizer(text)["input_ids"]
    roles = token_roles(ids, False, lambda part: tokenizer.decode(part, skip_special_tokens=True))
    chosen = [token for token, role in zip(ids, roles, strict=True) if role == TokenRole.CHOICE]
    assert tokenizer.decode(chosen) == "größer"
