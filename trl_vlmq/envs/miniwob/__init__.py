# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
MiniWoB++: web tasks in a real Chromium, on the pages that Farama's `miniwob` ships.

    tasks.py       which tasks there are, without importing a browser
    actions.py     the action dialect: text in, a call out
    process.py     a Chromium that does not outlive its Python
    browser.py     what one does with it: open a page, look, point, type
    page.js        runs inside the page: its clock, its elements
    elements.py    the elements of a page as text
    execution.py   what each action does in the browser
    env.py         the environment
    experts/       how to solve a task, from what can be seen
    behaviors.py   scripted agents made of that
"""
