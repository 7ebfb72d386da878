# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Which texts are calls of tools, and which classes have tools that can be called."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers.utils import get_json_schema

from trl_vlmq.envs import ToolEnv
from trl_vlmq.envs.tools import ToolGrammar


sys.path.insert(0, str(Path(__file__).parent))
from tool_classes import Island, Types, call, grammar_of  # noqa: E402


# The grammar


def test_calls_in_any_spelling_become_one_action():
    grammar = grammar_of(Island, "move")
    action = '{"name": "move", "arguments": {"direction": "east", "steps": 2}}'
    for text in (action, '\n{"arguments":{"steps":2,\t"direction":"\\u0065ast"},"name":"move"} '):
        assert grammar.parse(text) == action
    assert grammar.format(action) == action
    assert grammar.parse(call("move", direction="east")) == call("move", direction="east")


@pytest.mark.parametrize(
    "argument, right, wrong",
    [
        ("text", ["", "é\n\x00", "__import__('os').abort()"], [1, None, ["a"], True]),
        ("count", [0, -3, 10**30], [1.0, True, "1", None]),
        ("share", [0.5, 1, -1e300], [True, "0.5", None]),
        ("mixed", [1, "1"], [1.5, True, None]),
        ("perhaps", [1, None], ["1", False]),
        ("numbers", [[], [1, 2]], [[1, "2"], [True], 1, {}]),
        ("pair", [[1, "a"]], [[1], ["a", 1], [1, "a", 2], {}]),
        ("table", [{}, {"a": True}], [{"a": 1}, [], None]),
        ("union", ["a", [1]], ["b", ["a"], 1]),
        ("one", [1, 2], [3, 1.0, True, "1", None]),
    ],
)
def test_arguments_must_be_of_the_type_that_the_tool_declares(argument, right, wrong):
    grammar = grammar_of(Types, "take")
    for value in right:
        action = grammar.parse(call("take", **{argument: value}))
        assert json.loads(action)["arguments"] == {argument: value}
    for value in wrong:
        assert grammar.parse(call("take", **{argument: value})) is None
    env = ToolEnv(Types, lambda types: 0.0, lambda types: False, max_steps=3)
    env.reset(seed=0)
    env.step(call("take", **{argument: right[-1]}))
    assert env.environment.got[argument] == right[-1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '"look"',
        '{"name": "look"}',
        '{"name": "look", "arguments": null}',
        '{"name": "look", "arguments": []}',
        '{"name": "look", "arguments": {}}',
        '{"name": "look", "arguments": "{\\"carefully\\": true}"}',
        '{"name": "look", "arguments": {"carefully": "true"}}',
        '{"name": "look", "arguments": {"carefully": true, "carefully": true}}',
        '{"name": "look", "arguments": {"carefully": true, "self": 1}}',
        '{"name": "look", "arguments": {"carefully": true}, "id": 1}',
        '{"name": "look", "name": "look", "arguments": {"carefully": true}}',
        '{"name": "look", "arguments": {"carefully": true}}{"name": "look", "arguments": {"carefully": true}}',
        'I will {"name": "look", "arguments": {"carefully": true}}',
        '{"name": "look", "arguments": {"carefully": true}}.',
        '{"name": ["look"], "arguments": {"carefully": true}}',
        '{"name": "_distance", "arguments": {}}',
        '{"name": "reset", "arguments": {}}',
        '{"name": "get_reward", "arguments": {}}',
        '{"name": "take", "arguments": {"share": NaN}}',
        '{"name": "take", "arguments": {"share": -Infinity}}',
        '{"name": "take", "arguments": {"share": 1e999}}',
        '{"name": "take", "arguments": {"count": ' + "9" * 10_000 + "}}",
        '{"name": "take", "arguments": {"text": "\\ud800"}}',
        '{"name": "take", "arguments": {"numbers": ' + "[" * 100_000 + "}}",
        '{"name": "take", "arguments": {"table": ' + '{"a": ' * 500 + "1" + "}" * 502,
        "\ud800\x00",
    ],
)
def test_anything_but_one_fitting_call_is_invalid_and_never_raises(text):
    tools = [get_json_schema(tool) for tool in (Island().look, Types().take)]
    assert ToolGrammar(tools).parse(text) is None


def test_no_damage_to_a_call_makes_the_grammar_raise():
    class Anything:
        def put(self, value: dict, flag: bool = False):
            """
            Put anything.

            Args:
                value: Anything.
                flag: Or not.
            """

    tools = [get_json_schema(tool) for tool in (Anything().put, Island().move, Types().take)]
    grammar = ToolGrammar(tools)
    rng = random.Random(0)
    pieces = [
        "{",
        "}",
        "[",
        "]",
        '"',
        ":",
        ",",
        "\\",
        "\\u",
        "\\ud800",
        "1e999",
        "NaN",
        "null",
        "-",
        "é",
        "\x00",
        "[" * 900,
    ]
    whole = [
        call("put", value={"a": [1, {"b": None}]}, flag=True),
        call("move", direction="east", steps=2),
        call("take", text="a", numbers=[1], table={"a": True}, share=0.5),
    ]
    accepted = 0
    for _ in range(600):
        text = rng.choice(whole)
        for _ in range(rng.randint(1, 4)):
            i, j = sorted(rng.choices(range(len(text) + 1), k=2))
            text = text[:i] + rng.choice([*pieces, text[i:j], ""]) + text[min(j, i + 2) :]
        action = grammar.parse(text)
        if action is not None:
            accepted += 1
            assert grammar.parse(action) == action and json.loads(action) == json.loads(text)
    assert accepted < 300


# What is refused at once


class WithoutReset:
    def look(self):
        """Look."""


class WithoutTools:
    def reset(self):
        pass

    def get_reward(self):
        return 0.0


class Untyped(WithoutTools):
    def look(self, where):
        """
        Look.

        Args:
            where: There.
        """


class Undocumented(WithoutTools):
    def look(self):
        pass


class UndocumentedArgument(WithoutTools):
    def look(self, where: str):
        """Look."""


class Asynchronous(WithoutTools):
    async def look(self):
        """Look."""


class Seeing(WithoutTools):
    def look(self, picture: np.ndarray):
        """
        Look.

        Args:
            picture: This one.
        """


@pytest.mark.parametrize(
    "environment, message",
    [
        (WithoutReset, "WithoutReset has no method `reset`"),
        (WithoutTools, "WithoutTools has no tools: add a public method"),
        (Untyped, "'look' cannot be described to the model .*missing a type hint.*give it a docstring"),
        (Undocumented, "'look' cannot be described to the model .*no docstring.*give it a docstring"),
        (UndocumentedArgument, "'look' cannot be described to the model .*no description.*'where'.*under `Args:`"),
        (Asynchronous, "'look' is asynchronous"),
        (Seeing, "'look' cannot be described to the model .*ndarray"),
    ],
)
def test_classes_that_cannot_work_are_refused_with_the_cure(environment, message):
    with pytest.raises(ValueError, match=message):
        ToolEnv(environment, lambda _: 0.0, lambda _: False, max_steps=3)
