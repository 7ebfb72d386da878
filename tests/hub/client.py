# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A user's process: runs the Python that it is sent, a JSON line each, and says what became of it.

`huggingface_hub` reads the address of the Hub when it is imported, and the tests' own process is offline.
"""

import contextlib
import io
import json
import os
import sys
import time


time.sleep = lambda seconds: None  # the Hub's client waits between its attempts
answers = os.fdopen(os.dup(1), "w")  # whatever else the libraries print goes elsewhere
os.dup2(2, 1)

for line in sys.stdin:
    request = json.loads(line)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    answer, names, out, err = {"error": None, "types": []}, {}, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(request["code"], names)
        except BaseException as error:
            answer = {"error": str(error), "types": [kind.__name__ for kind in type(error).__mro__]}
    answer |= {"result": names.get("result"), "out": out.getvalue(), "err": err.getvalue()}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
