# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq COMMAND`: finds the command, and turns what it raises into messages and exit codes."""

import importlib
import sys
import traceback

from trl_vlmq import __version__

from .errors import UserError, debugging, suggest


# Name -> module with `main(argv)` and what the command is for.
COMMANDS = {
    "collect": ("collect", "play episodes in an environment and store them"),
    "import": ("import_logs", "turn a team's own logs into episodes"),
    "train": ("train", "train an agent on episodes: VLM Q-Learning, or SFT"),
    "evaluate": ("evaluate", "play held-out episodes and measure success"),
    "merge": ("merge", "make one full model of an adapter and its base"),
    "memory": ("memory", "what training will take on each device, and what fits"),
}

HELP = """usage: trl-vlmq COMMAND [options]

VLM Q-Learning: make a vision-language agent better than its logs.

commands:
{commands}

options:
  --help      show this help; `trl-vlmq COMMAND --help` shows a command's options
  --version   show the version

Exit codes: 0 done, 1 error (one line on stderr), 2 wrong usage, 130 interrupted.
TRL_VLMQ_DEBUG=1 shows the traceback of an error."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv (`list[str]`, *optional*):
            Arguments, by default those of the process.

    Returns:
        `int`: the exit code.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:10}  {text}" for name, (_, text) in COMMANDS.items())))
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"trl-vlmq {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: {name!r} is no command{suggest(name, COMMANDS) or '.'} Commands: {known}", file=sys.stderr)
        return 2
    try:
        importlib.import_module(f"trl_vlmq.cli.{COMMANDS[name][0]}").main(argv[1:])
    except UserError as error:
        if debugging():
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"interrupted: {interrupt}" if str(interrupt) else "interrupted", file=sys.stderr)
        return 130
    return 0
