# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from trl_vlmq.envs import JsonActionGrammar, LenientJsonActionGrammar


ACTIONS = ["turn left", "go forward"]


@pytest.mark.parametrize("key", ["action", "move"])
def test_what_is_formatted_can_be_parsed(key):
    grammar = JsonActionGrammar(ACTIONS, key=key)
    assert grammar.format("turn left") == f'{{"{key}": "turn left"}}'
    assert [grammar.parse(grammar.format(action)) for action in ACTIONS] == ACTIONS
    assert key in grammar.describe()


@pytest.mark.parametrize("text", [' {"action":"turn left"}\n', '{ "action" :\t"turn left" }'])
def test_white_space_between_tokens_does_not_invalidate_an_action(text):
    assert JsonActionGrammar(ACTIONS).parse(text) == "turn left"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "turn left",
        '"turn left"',
        "null",
        "[]",
        "{}",
        '{"action": "turn left"',
        '{"action": "turn left"}.',
        'I will: {"action": "turn left"}',
        '{"action": "turn left"}{"action": "turn left"}',
        '{"action": "turn left", "action": "turn left"}',
        '{"action": "turn left", "reason": "why not"}',
        '{"Action": "turn left"}',
        '{"action": "Turn left"}',
        '{"action": " turn left"}',
        '{"action": "fly"}',
        '{"action": ["turn left"]}',
        '{"action": {"action": "turn left"}}',
        '{"action": null}',
        '{"action": NaN}',
        '{"action": true}',
        "{'action': 'turn left'}",
        '{"action": "turn left",}',
        '{"action": ' + "9" * 10_000 + "}",
        "[" * 100_000,
        '{"action": ' * 10_000,
        "__import__('os').abort()",
        "\ud800\x00",
    ],
)
def test_anything_but_one_listed_action_is_invalid_and_never_raises(text):
    assert JsonActionGrammar(ACTIONS).parse(text) is None


def test_an_unknown_action_cannot_be_formatted():
    with pytest.raises(ValueError, match="'fly' is not one of the actions"):
        JsonActionGrammar(ACTIONS).format("fly")


@pytest.mark.parametrize("actions", [[], ["a", "a"]])
def test_action_lists_that_make_no_sense_are_refused(actions):
    with pytest.raises(ValueError, match="non-empty list without repetitions"):
        JsonActionGrammar(actions)


def test_thoughts_come_first_and_may_say_anything():
    grammar = JsonActionGrammar(ACTIONS, thoughts=True)
    text = grammar.format("turn left", 'it is "there"\n')
    assert json.loads(text) == {"thoughts": 'it is "there"\n', "action": "turn left"}
    assert grammar.parse(text) == "turn left"
    assert grammar.describe() == 'Answer with {"thoughts": "...", "action": "..."}'


@pytest.mark.parametrize(
    "text",
    [
        '{"action": "turn left"}',
        '{"action": "turn left", "thoughts": "x"}',
        '{"thoughts": 1, "action": "turn left"}',
        '{"thoughts": "x", "action": "turn left", "more": "y"}',
    ],
)
def test_thoughts_in_another_form_invalidate_an_action(text):
    assert JsonActionGrammar(ACTIONS, thoughts=True).parse(text) is None


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"action": "turn left"}', "turn left"),
        ('I see a ball {here}.\n```json\n{"Thoughts": "x", "ACTION": " Turn Left "}\n```', "turn left"),
        ('{"action": "turn left"} or rather {"action": "go forward"}', "go forward"),
        ('{"action": "turn left", "why": {"because": "so"}}', "turn left"),
        ('{"action": "turn left"} {"other": 1}', "turn left"),
        ('{"action": 3}', "3"),
        ('{"action": true}', None),
        ('{"action": null}', None),
        ('{"action": ["turn left"]}', None),
        ('{"action": "turn"}', None),
        ('{"action": "turn left"', None),
        ("{'action': 'turn left'}", None),
        ("turn left", None),
        ("{" * 5000, None),
        ('{"action": NaN}', None),
        ("", None),
    ],
)
def test_what_the_lenient_grammar_accepts(text, action):
    assert LenientJsonActionGrammar([*ACTIONS, "3"]).parse(text) == action
