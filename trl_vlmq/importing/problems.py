# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What can be wrong with a line of a log, in the words of a user who wants to repair it."""


class LogProblem(ValueError):
    """
    A reason to leave out an episode.

    Args:
        field (`str`):
            The field as the log calls it.
        what (`str`):
            What is wrong; equal for all problems that are counted together.
        cure (`str`):
            What to do about it.
        detail (`str`, *optional*, defaults to `""`):
            What is particular to this line.
        where (`str`, *optional*, defaults to `""`):
            `"file:line"`, if it is another line than the one that is being read.
    """

    def __init__(self, field: str, what: str, cure: str, detail: str = "", where: str = ""):
        super().__init__(f"field {field!r}: {what}{f' ({detail})' if detail else ''}. Cure: {cure}.")
        self.reason = f"{field}: {what}"
        self.where = where
