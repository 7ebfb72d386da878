# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The command line, `trl-vlmq`: each command reads its arguments and calls the package's own functions."""
