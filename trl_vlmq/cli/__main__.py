# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`python -m trl_vlmq.cli`, also for `accelerate launch -m trl_vlmq.cli train ...`."""

import sys

from .main import main


sys.exit(main())
