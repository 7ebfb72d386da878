# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Text from outside must not smuggle a processor's image placeholder, such as `<image>`, into a prompt."""

import re


_TAG = re.compile(r"<(\S+?)>")


def without_placeholders(text: str) -> str:
    """The text with each `<word>` written as `(word)`."""
    return _TAG.sub(r"(\1)", text)
