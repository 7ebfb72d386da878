# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A team's own logs, JSONL and images -> episodes."""

from .importer import import_logs
from .mapping import FieldMapping
from .report import ImportReport


__all__ = ["FieldMapping", "ImportReport", "import_logs"]
