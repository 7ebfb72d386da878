# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""TRL's parser with a help that a person can read, and a YAML file whose every key is checked."""

import argparse
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from trl import TrlParser

from .errors import UserError, debugging, suggest


class CommandParser(TrlParser):
    """
    Parser of one command.

    A YAML file (`--config`) says the same as flags: its keys are turned into flags that stand before the real ones, so
    that it is read and checked in the same way, and a real flag wins.

    Args:
        command (`str`):
            Name of the command.
        dataclass_types (`Sequence[type]`):
            The arguments.
        sections (`Mapping[str, Sequence[str]]`):
            Title -> arguments, in the order in which `--help` shows them. The others are shown by `--help_all` only.
        usage (`str`):
            The usual arguments, for the usage line.
        description (`str`):
            What the command does.
        examples (`str`):
            Command lines, shown at the end of the help.
    """

    def __init__(
        self,
        command: str,
        dataclass_types: Sequence[type],
        sections: Mapping[str, Sequence[str]],
        usage: str,
        description: str,
        examples: str,
    ):
        super().__init__(
            dataclass_types,
            prog=f"trl-vlmq {command}",
            usage=f"trl-vlmq {command} {usage}",
            description=description,
            epilog=examples,
            formatter_class=_HelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self._shown = {title: list(names) for title, names in sections.items()}
        self._names = [action.dest for action in self._actions]
        shown = {name for names in sections.values() for name in names}
        self._rest = list(dict.fromkeys(name for name in self._names if name not in shown))
        general = ["config", "help"]
        self.add_argument("--config", metavar="FILE", help="YAML file of arguments; a flag beats what it says.")
        self.add_argument("-h", "--help", action="store_true", help="Show this help.")
        if self._rest:
            general.append("help_all")
            self.add_argument("--help_all", action="store_true", help=f"Show {len(self._rest)} more arguments.")
        self._shown["general"] = general

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """The arguments as instances of the dataclasses; exits with code 2 if they are wrong."""
        if {"-h", "--help", "--help_all"} & set(argv):
            print(self.format_help(everything="--help_all" in argv))
            sys.exit(0)
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.add_argument("--config")
        early.error = self.error
        config, _ = early.parse_known_args(argv)
        flags = [] if config.config is None else self._flags_of(config.config)
        try:
            *outputs, remaining = self.parse_args_into_dataclasses(
                [*flags, *argv], return_remaining_strings=True, look_for_args_file=False
            )
        except (ValueError, TypeError) as error:  # what the dataclasses check by themselves
            self.error(" ".join(str(error).split()))
        if remaining:
            word = remaining[0]
            close = suggest(word.partition("=")[0], [f"--{name}" for name in self._names])
            self.error(f"unknown argument {word!r}{close}")
        return tuple(outputs[: len(self.dataclass_types)])

    def error(self, message: str) -> None:
        if debugging() and sys.exception() is not None:
            traceback.print_exc()
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)

    def format_help(self, everything: bool = False) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        sections = self._shown | ({"all other arguments": self._rest} if everything else {})
        for title, names in sections.items():
            formatter.start_section(title)
            for name in names:
                formatter.add_argument(next(action for action in self._actions if action.dest == name))
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _flags_of(self, path: str) -> list[str]:
        """The flags that say what a YAML file says; `null` becomes a default, as no flag can say it."""
        if not Path(path).is_file():
            raise UserError(f"There is no file {path} (--config).")
        try:
            config = yaml.safe_load(Path(path).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(config, dict):
            raise UserError(f"{path} must hold lines of the form `argument: value`.")
        flags = []
        for key, value in config.items():
            name = str(key).replace("-", "_")
            if name not in self._names:
                self.error(f"{path}: unknown key {key!r}{suggest(name, self._names)}")
            if value is None:
                self.set_defaults(**{name: None})
            elif isinstance(value, list):
                flags += [f"--{name}", *map(str, value)]
            elif isinstance(value, dict):
                flags.append(f"--{name}={json.dumps(value)}")
            else:
                flags.append(f"--{name}={value}")
        return flags


class _HelpFormatter(argparse.HelpFormatter):
    """One spelling of each argument, defaults where there are any, and the examples as they were written."""

    def __init__(self, prog: str, **kwargs):
        super().__init__(prog, max_help_position=30, width=110, **kwargs)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if action.nargs == 0:
            return ", ".join(action.option_strings)
        metavar = action.metavar or _VALUES.get(getattr(action.type, "__name__", ""), "TEXT")
        if action.choices is not None:
            metavar = "{" + ",".join(map(str, action.choices)) + "}"
        if action.nargs == "+":
            metavar += " ..."
        elif action.nargs == "?":
            metavar = f"[{metavar}]"
        return f"{action.option_strings[0]} {metavar}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required:
            return f"{text} (required)"
        if action.default in (None, [], "") or action.nargs == 0:
            return text
        return f"{text} (default: {str(action.default).replace('%', '%%')})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


_VALUES = {"int": "INT", "float": "FLOAT", "string_to_bool": "true|false"}
