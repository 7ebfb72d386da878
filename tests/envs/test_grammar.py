# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import pytest

from trl_vlmq.envs import JsonActionGrammar


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
