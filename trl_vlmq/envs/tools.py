# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Environments written for TRL's `environment_factory`, whose methods are tools, as text-action environments."""

import inspect
import itertools
import json
import math
import numbers
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any

import numpy as np
from gymnasium import spaces

from trl_vlmq.envs.grammar import _object_without_repeated_keys, _reject
from trl_vlmq.envs.placeholders import without_placeholders
from trl_vlmq.envs.text_action import Image, Outcome, TextActionEnv, image_space


# What `json.loads` makes, and its type in a schema.
KINDS = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    NoneType: "null",
    list: "array",
    dict: "object",
}


class ToolGrammar:
    """
    One JSON object that calls one tool, such as `{"name": "move", "arguments": {"direction": "left"}}`.

    Strict, as [`~trl_vlmq.envs.grammar.JsonActionGrammar`] is: the whole text must be that object, with the keys
    `name` and `arguments`, a tool that there is, no unknown or missing argument, and values of the types that the tool
    declares (`1.0` is no integer, `1` is a number). The action is the call in one spelling: one space after a colon or
    comma, arguments in the order in which the tool declares them.

    Args:
        tools (`Sequence[dict]`):
            JSON schemas of the tools, as [`~transformers.utils.get_json_schema`] returns them.

    Raises:
        ValueError: the type of an argument cannot be written in JSON (an image).
    """

    def __init__(self, tools: Sequence[dict[str, Any]]):
        self.tools = {tool["function"]["name"]: tool["function"] for tool in tools}
        self._description = "\n".join(["Tools:", *map(_describe_tool, self.tools.values())])

    def format(self, action: str) -> str:
        hooks = {"object_pairs_hook": _object_without_repeated_keys, "parse_constant": _reject}
        call = json.loads(action, parse_float=_finite_float, **hooks)
        if not isinstance(call, dict) or call.keys() != {"name", "arguments"}:
            raise ValueError(f'{action!r} is not of the form {{"name": "...", "arguments": {{...}}}}.')
        name, arguments = call["name"], call["arguments"]
        if not isinstance(name, str) or name not in self.tools:
            raise ValueError(f"{name!r} is not one of the tools {list(self.tools)}.")
        declared = self.tools[name]["parameters"]["properties"]
        required = self.tools[name]["parameters"].get("required", [])
        if not isinstance(arguments, dict) or not set(required) <= arguments.keys() <= declared.keys():
            raise ValueError(f"{name!r} takes the arguments {list(declared)} and needs {required}, not {arguments!r}.")
        for argument, value in arguments.items():
            if not _fits(value, declared[argument]):
                raise ValueError(f"{argument}={value!r} of {name!r} must be: {_describe_type(declared[argument])}.")
        ordered = {argument: arguments[argument] for argument in declared if argument in arguments}
        text = json.dumps({"name": name, "arguments": ordered}, ensure_ascii=False)
        text.encode()  # raises for the escape of a lone surrogate, which is no text that can be shown or stored
        return text

    def parse(self, text: str) -> str | None:
        try:
            return self.format(text)
        except (ValueError, RecursionError):  # RecursionError: "[[[[..." is something a model can write
            return None

    def describe(self) -> str:
        return f'{self._description}\nAnswer with {{"name": "...", "arguments": {{...}}}}'

    def calls(self) -> list[str]:
        """
        All calls there are, if each argument has a fixed list of values; one that has a default may be left out.

        Raises:
            ValueError: an argument without a default may have any value of its type.
        """
        calls = []
        for name, tool in self.tools.items():
            choices = {}
            for argument, schema in tool["parameters"]["properties"].items():
                values = _values(schema)
                if values is not None:
                    choices[argument] = values
                elif argument in tool["parameters"].get("required", []):
                    raise ValueError(
                        f"The calls of {name!r} cannot be listed: {argument!r} is any {_describe_type(schema)}. "
                        "Declare it as a typing.Literal, or give ToolEnv legal_actions=, a function that lists calls."
                    )
            for chosen in itertools.product(*choices.values()):
                arguments = dict(zip(choices, chosen, strict=True))
                calls.append(self.format(json.dumps({"name": name, "arguments": arguments})))
        return calls


class ToolEnv(TextActionEnv):
    """
    An environment of [`~trl.GRPOTrainer`] (`environment_factory`): `reset` starts an episode, methods are tools.

    The agent reads what `reset` returned and what the newest call returned. A time step is one call. Text that is not
    the call of a tool with fitting arguments is an invalid action and reaches no tool. A valid call whose tool raises
    shows the error to the agent, as TRL does, counts as not effective, and the episode goes on.

    Args:
        environment_factory (`Callable`):
            Makes the environment, usually its class. It is called once; each episode calls `reset`.
        reward (`Callable`):
            `reward(environment)` is the score of the episode so far, a finite float. The reward of a step is what this
            score gained in it, so that the rewards of an episode add up to its last score minus the one after `reset`.
            Most of GRPO's are 0 until the task is accomplished, and so pay in the step that accomplishes it.
        done (`Callable`):
            `done(environment)` tells after each call whether the task ended.
        max_steps (`int`):
            Time steps after which the episode is truncated.
        success (`Callable`, *optional*):
            `success(environment)` tells whether the task is accomplished as of now. By default it is when the task
            ended with a score above 0.
        image (`Callable`, *optional*):
            `image(environment)` is what the agent sees now, uint8 [height, width, 3] of the same size throughout. To
            learn the size, the environment is reset once here. By default `obs["image"]` is an empty tuple.
        reset_kwargs (`Callable`, *optional*):
            `reset_kwargs(rng)` draws the arguments of `reset` for an episode from a `numpy.random.Generator`, in place
            of the columns of GRPO's dataset. Without it, `reset` gets none.
        legal_actions (`Callable`, *optional*):
            `legal_actions(environment)` lists the calls that make sense now, each a
            `{"name": ..., "arguments": {...}}`. By default all calls, if they can be listed.
        list_tools (`bool`, *optional*, defaults to `True`):
            List the tools and the form of an answer in the text.
        kwargs:
            `invalid_action`, `invalid_penalty`, `default_action` and `render_mode` of
            [`~trl_vlmq.envs.text_action.TextActionEnv`].

    Raises:
        ValueError: the environment has no `reset` or no tool, a tool is asynchronous or lacks types or a docstring, or
            an argument makes no sense.
    """

    def __init__(
        self,
        environment_factory: Callable[[], Any],
        reward: Callable[[Any], float],
        done: Callable[[Any], bool],
        *,
        max_steps: int,
        success: Callable[[Any], bool] | None = None,
        image: Callable[[Any], np.ndarray] | None = None,
        reset_kwargs: Callable[[np.random.Generator], dict[str, Any]] | None = None,
        legal_actions: Callable[[Any], list[dict[str, Any]]] | None = None,
        list_tools: bool = True,
        **kwargs,
    ):
        if max_steps is None:
            raise ValueError("max_steps=None must be a number: an agent that calls no tool would never stop.")
        if image is None and kwargs.get("render_mode") is not None:
            raise ValueError(f"render_mode={kwargs['render_mode']!r} needs image=, a function that shows something.")
        self.environment = environment_factory()
        self._tools = _tools(self.environment)
        self._reward, self._done, self._success, self._image = reward, done, success, image
        self._reset_kwargs, self._legal_actions = reset_kwargs, legal_actions
        grammar = ToolGrammar([_schema(tool) for tool in self._tools.values()])
        super().__init__(grammar, self._image_space(), max_steps=max_steps, **kwargs)
        self._help = grammar.describe() if list_tools else ""
        if self.invalid_action == "random" and legal_actions is None:
            grammar.calls()  # raises here rather than at the first invalid action

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        self._task = self._restart(self.np_random)
        self._result = ""
        self._score = self._evaluate()

    def _observe(self) -> tuple[Image, str]:
        image = () if self._image is None else np.array(self._image(self.environment))
        return image, "\n".join(part for part in (self._task, self._result, self._help) if part)

    def _execute(self, action: str) -> Outcome:
        call = json.loads(action)
        try:
            result, failed = _text(self._tools[call["name"]](**call["arguments"])), False
        except Exception as error:
            result, failed = str({"error": str(error)}), True  # as TRL shows it
        self._result = f"{call['name']}: " + without_placeholders(result)
        before, self._score = self._score, self._evaluate()
        done = bool(self._done(self.environment))
        success = done and self._score > 0 if self._success is None else bool(self._success(self.environment))
        return Outcome(self._score - before, terminated=done, effective=not failed, success=success)

    def legal_actions(self) -> list[str]:
        if self._legal_actions is None:
            return self.grammar.calls()
        return [self.grammar.format(json.dumps(call)) for call in self._legal_actions(self.environment)]

    def _restart(self, rng: np.random.Generator) -> str:
        """Resets the environment. Returns what it tells about the task."""
        task = self.environment.reset(**(self._reset_kwargs(rng) if self._reset_kwargs is not None else {}))
        return "" if task is None else _text(task)

    def _evaluate(self) -> float:
        score = self._reward(self.environment)
        if not isinstance(score, numbers.Real) or not math.isfinite(score):
            raise ValueError(f"reward(environment) returned {score!r}: return a finite float.")
        return float(score)

    def _image_space(self) -> spaces.Box | spaces.Sequence:
        if self._image is None:
            return spaces.Sequence(image_space(1, 1))  # contains (); Gymnasium's checker refuses Tuple(())
        self._restart(np.random.default_rng(0))
        image = np.asarray(self._image(self.environment))
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image(environment) returned {image.dtype} of shape {image.shape}: return uint8 [height, width, 3]."
            )
        return image_space(*image.shape[:2])


def _tools(environment: Any) -> dict[str, Callable]:
    """The methods that TRL exposes as tools: those of the class whose names have no leading underscore."""
    kind = type(environment).__name__
    names = [name for name, _ in inspect.getmembers(type(environment), inspect.isfunction)]
    if "reset" not in names:
        raise ValueError(f"{kind} has no method `reset`: add one, which starts an episode.")
    tools = [getattr(environment, name) for name in names if not name.startswith("_")]
    tools = {tool.__name__: tool for tool in tools if tool.__name__ not in ("reset", "get_reward")}
    if not tools:
        raise ValueError(f"{kind} has no tools: add a public method with type hints and a docstring.")
    return tools


def _schema(tool: Callable) -> dict[str, Any]:
    from transformers.utils import get_json_schema  # not at the top: it takes longer than all of this package

    if inspect.iscoroutinefunction(tool):
        raise ValueError(f"The tool {tool.__name__!r} is asynchronous: make it a plain method that waits.")
    try:
        return get_json_schema(tool)
    except Exception as error:
        raise ValueError(
            f"The tool {tool.__name__!r} cannot be described to the model ({error}): give it a docstring, and each "
            "argument a type hint and a line under `Args:` there; if it is no tool, begin its name with an underscore."
        ) from error


def _text(content: Any) -> str:
    """What TRL would show of a result: of a list of content blocks its text, of anything else its `str`."""
    if not isinstance(content, list) or not content:
        return str(content)
    if not all(isinstance(part, dict) and part.get("type") in ("text", "image") for part in content):
        return str(content)
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _finite_float(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _reject(digits)  # 1e999


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a JSON value is of the type that a schema of `get_json_schema` describes."""
    if value is None and schema.get("nullable"):
        return True
    if "enum" in schema:
        return any(type(value) is type(option) and value == option for option in schema["enum"])
    if "anyOf" in schema:
        return any(_fits(value, option) for option in schema["anyOf"])
    if "type" in schema and KINDS[type(value)] not in _kinds(schema):
        return type(value) is int and "number" in _kinds(schema)
    if "prefixItems" in schema:
        return len(value) == len(schema["prefixItems"]) and all(map(_fits, value, schema["prefixItems"]))
    if "items" in schema:
        return all(_fits(item, schema["items"]) for item in value)
    if "additionalProperties" in schema:
        return all(_fits(item, schema["additionalProperties"]) for item in value.values())
    return True


def _kinds(schema: dict[str, Any]) -> list[str]:
    return schema["type"] if isinstance(schema["type"], list) else [schema["type"]]


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """All values of an argument, or `None` if they cannot be listed."""
    if "enum" in schema:
        values = schema["enum"]
    elif schema.get("type") == "boolean":
        values = [False, True]
    else:
        return None
    return [*values, None] if schema.get("nullable") else values


def _describe_tool(tool: dict[str, Any]) -> str:
    required = tool["parameters"].get("required", [])
    declared = tool["parameters"]["properties"]
    arguments = [
        f"{name}{'' if name in required else '?'}: {_describe_type(schema)}" for name, schema in declared.items()
    ]
    lines = [f"{tool['name']}({', '.join(arguments)}): {' '.join(tool['description'].split())}"]
    return "\n".join([*lines, *(f"  {name}: {schema['description']}" for name, schema in declared.items())])


def _describe_type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        kinds = [json.dumps(option, ensure_ascii=False) for option in schema["enum"]]
    elif "anyOf" in schema:
        kinds = [_describe_type(option) for option in schema["anyOf"]]
    elif "type" in schema:
        kinds = _kinds(schema)
        if not set(kinds) <= set(KINDS.values()):
            raise ValueError(f"An argument is of type {kinds}, which a model cannot write in JSON.")
        inner = [schema[key] for key in ("items", "additionalProperties") if key in schema]
        inner = schema.get("prefixItems", inner)
        kinds = [f"{kinds[0]}[{', '.join(map(_describe_type, inner))}]"] if inner else kinds
    else:
        kinds = ["any"]
    return " | ".join([*kinds, "null"] if schema.get("nullable") else kinds)
