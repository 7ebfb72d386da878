# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The environment in a real browser: what is seen, what actions do, time and rewards."""

import http.server
import threading
import time

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from trl_vlmq.envs import check_text_action_env
from trl_vlmq.envs.miniwob.tasks import task_names


pytestmark = pytest.mark.slow


def element(env, role, name=None):
    return next(e for e in env.page if e.role == role and name in (None, e.name))


def test_gymnasiums_and_our_checker_pass(chromium, recwarn):
    env = gymnasium.make("trl_vlmq/MiniWoB-click-test-2-v0")
    check_env(env.unwrapped, skip_render_check=True)
    check_text_action_env(env, episodes=1, steps=5)
    env.close()
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize("task", task_names()[::3])
def test_a_task_starts_shows_its_goal_and_lets_time_pass(on, task):
    env = on(task, seed=1)
    assert env.goal and env.page and env._image.std() > 5
    observation, reward, terminated, truncated, info = env.step("noop()")
    assert observation in env.observation_space and observation["text"].startswith(f"Goal: {env.goal[:10]}")
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, False, False)


def walk(env, seed):
    """An episode of random legal actions: all that it shows."""
    rng = np.random.default_rng(seed)
    seen = [env._observation()]
    for _ in range(4):
        observation, reward, terminated, *_ = env.step(env.draw_legal_action(rng))
        seen.append(observation | {"reward": reward})
        if terminated:
            break
    return seen


@pytest.mark.parametrize(
    "task", ["click-menu", "email-inbox", "choose-date", "social-media", "click-tab", "search-engine"]
)
def test_the_same_seed_is_the_same_episode_whatever_came_before(on, task):
    first = walk(on(task, seed=5), 5)
    on("book-flight", seed=6).step("mouse_click(80, 80)")
    on(task, seed=7).step("mouse_click(80, 80)")
    second = walk(on(task, seed=5), 5)
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one["text"] == other["text"] and one.get("reward") == other.get("reward")
        # Corners are smoothed a shade differently, depending on what was drawn before.
        assert np.abs(one["image"].astype(int) - other["image"]).max() <= 8


def test_the_mouse_is_in_the_middle_after_a_reset_wherever_it_was_before(on):
    for before in ("mouse_click(20, 60)", "noop()"):
        on("click-shades", seed=0).step(before)
        env = on("bisect-angle", seed=0)
        env._browser.driver.execute_script(
            "document.addEventListener('mousedown', (e) => { window.pressed = [e.clientX, e.clientY]; }, true)"
        )
        env.step("mouse_down()")
        assert env._browser.driver.execute_script("return window.pressed") == [80, 105]
        env.step("mouse_up()")


def test_what_an_earlier_episode_copied_cannot_be_pasted(on):
    def pasted(seed, *actions):
        env = on("enter-text", seed=seed)
        field = element(env, "textbox").ref
        for action in (*actions, f"fill('{field}', '')", f"focus('{field}')", "keyboard_press('Control+v')"):
            env.step(action.format(field=field))
        return element(env, "textbox").value

    copies = ("fill('{field}', 'kept')", "keyboard_press('Control+a')", "keyboard_press('Control+c')")
    assert pasted(0, *copies) == "kept"
    assert pasted(1) == ""


@pytest.mark.parametrize("task", ["click-test", "click-test-2"])
@pytest.mark.parametrize("right", [True, False])
def test_a_double_click_that_ends_the_task_does_not_start_another(on, task, right):
    env = on(task, seed=0)
    button = element(env, "button", "Click Me!" if task == "click-test" else "ONE" if right else "TWO")
    observation, reward, terminated, _, info = env.step(f"dblclick('{button.ref}')")
    right = right or task == "click-test"
    assert (reward, terminated, info["success"]) == (float(right), True, right)


def test_what_is_typed_into_a_terminal_is_text(on):
    env = on("terminal", seed=0)
    env.step("click('1')")
    *_, terminated, _, info = env.step("keyboard_type('<img src=x onerror=core.endEpisode(1)>\\n')")
    assert not terminated and not info["success"]
    assert not env._browser.driver.execute_script("return document.querySelectorAll('#terminal img').length")
    assert "<img src=x" in env._browser.driver.execute_script("return document.querySelector('#terminal').textContent")


def test_after_close_a_step_asks_for_a_reset(make):
    env = make("click-test")
    assert env.env_id is None
    env.reset(seed=0)
    env.close()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("noop()")


def test_other_seeds_are_other_pages(on):
    assert len({on("login-user", seed=seed).goal for seed in range(5)}) > 3


def test_an_episode_without_a_seed_goes_on_with_the_generator(on):
    def goals():
        env = on("login-user", seed=3)
        result = []
        for _ in range(3):
            env.reset()
            result.append(env.goal)
        return result

    first = goals()
    assert len(set(first)) == 3 and first == goals()


def test_of_several_tasks_the_seed_decides_and_the_browser_stays(make, processes):
    env = make(["click-test", "login-user"])
    browsers, tasks = set(), []
    for seed in (0, 1, 2, 3, 4, 5, 0, 1):
        _, info = env.reset(seed=seed)
        tasks.append(info["task"])
        browsers.add(processes(env, "chromium")[0].pid)
    assert len(browsers) == 1 and set(tasks) == {"click-test", "login-user"} and tasks[:2] == tasks[-2:]


def test_the_last_observation_is_the_page_before_its_cover(on, ref):
    env = on("click-test")
    before = env._image.copy()
    observation, reward, terminated, truncated, info = env.step(f"click('{ref(env, 'button')}')")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    np.testing.assert_array_equal(observation["image"], before)
    assert "Click the button" in observation["text"]


def test_text_and_image_are_as_asked_for(make):
    env = make("click-tab", elements=None, list_actions=False, image_scale=2.0)
    observation, _ = env.reset(seed=0)
    assert observation["text"] == f"Goal: {env.goal}" and observation["image"].shape == (420, 320, 3)
    env.elements = "tree"
    assert '\n[1] tablist\n  [2] tab "Tab #1"' in env._observe()[1]
    env.elements = "list"
    assert "tablist" not in env._observe()[1]
    # Places are pixels of the image, so the tab lies at twice its CSS coordinates.
    tab = element(env, "tab", "Tab #2" if "#2" in env.goal else "Tab #1" if "#1" in env.goal else "Tab #3")
    assert env.step(f"mouse_click({2 * tab.x}, {2 * tab.y})")[4]["success"]


def test_a_placeholder_in_a_goal_or_an_error_is_defused(on):
    env = on("enter-text")
    env.goal = "Enter <image> here"
    observation, *_ = env.step("click(<image>)")
    assert "<image>" not in observation["text"]


@pytest.mark.parametrize(
    ("text", "said", "valid"),
    [
        ("press the button", "an answer is one call", False),
        ("click('77')", "there is no element 77 on the page", True),
        ("fill('3', 'x')", "element 3 is no text field", True),
        ("select_option('3', 'x')", "element 3 is no list of options", True),
        ("mouse_click(500, 2)", "lies outside of the image of 160 x 210 pixels", True),
        ("scroll(0, 50)", "nothing under the mouse scrolls that way", True),
    ],
)
def test_a_wrong_action_is_told_in_the_next_turn_and_no_longer(on, text, said, valid):
    env = on("enter-password", seed=0)
    observation, reward, terminated, _, info = env.step(text)
    assert "\nError: " in observation["text"] and said in observation["text"]
    assert (reward, terminated, info["action_is_valid"], info["action_is_effective"]) == (0.0, False, valid, False)
    assert info["executed_action"] == (text if valid else None)
    assert "Error:" not in env.step("noop()")[0]["text"]


def test_what_is_covered_or_disabled_is_not_clicked_or_filled_by_force(on, ref):
    env = on("sign-agreement")
    field = next(e for e in env.page if e.disabled and e.role == "textbox")
    assert "read-only or disabled" in env.step(f"fill('{field.ref}', 'me')")[0]["text"]
    env = on("click-dialog", seed=0)
    assert element(env, "dialog")


def test_fill_replaces_and_typing_appends(on, ref):
    env = on("enter-text")
    field = ref(env, "textbox")
    for text in ("first", "second é 漢 🙂"):
        env.step(f"fill('{field}', {text!r})")
        assert element(env, "textbox").value == text
    env.step("keyboard_type('!?')")
    assert element(env, "textbox").value == "second é 漢 🙂!?"
    env.step("keyboard_press('Backspace')")
    env.step("keyboard_press('Control+a')")
    env.step("keyboard_type('new')")
    assert element(env, "textbox").value == "new"
    env.step(f"fill('{field}', '')")
    assert element(env, "textbox").value == ""


def test_pickers_take_their_own_form_and_say_which(on, ref):
    env = on("enter-date")
    field = ref(env, "date")
    assert "write it as 2026-01-31" in env.step(f"fill('{field}', '05/20/2010')")[0]["text"]
    env.step(f"fill('{field}', '2010-05-20')")
    assert element(env, "date").value == "2010-05-20"


def test_options_are_selected_by_label_and_wrong_ones_listed(on, ref):
    env = on("choose-list", seed=1)
    box = element(env, "combobox")
    assert "it has Aurora, Bernelle" in env.step(f"select_option('{box.ref}', 'Nobody')")[0]["text"]
    assert "takes one option only" in env.step(f"select_option('{box.ref}', ['Aurora', 'Emlynn'])")[0]["text"]
    env.step(f"select_option('{box.ref}', 'Emlynn')")
    assert ["Emlynn", True] in element(env, "combobox").options


def test_scrolling_and_the_keyboard_move_what_is_under_the_mouse(on, ref):
    env = on("email-inbox")
    before = [e.in_view for e in env.page]
    env.step("scroll(0, 60)")
    after = [e.in_view for e in env.page]
    assert before != after and not before[-1]
    for _ in range(5):
        env.step("scroll(0, 60)")
    assert env.page[-1].in_view
    # A click on what is out of view scrolls there by itself.
    env = on("email-inbox")
    env.step(f"click('{env.page[-1].ref}')")
    assert env._error is None


def test_the_mouse_can_be_pressed_moved_and_released(on):
    env = on("drag-single-shape", seed=0)
    shape = next(e for e in env.page if e.tag in ("circle", "rect", "polygon"))
    for action in (
        f"mouse_move({shape.x}, {shape.y})",
        "mouse_down()",
        f"mouse_move({shape.x + 20}, {shape.y})",
        "mouse_up()",
    ):
        env.step(action)
    moved = next(e for e in env.page if e.ref == shape.ref)
    assert moved.x == pytest.approx(shape.x + 20, abs=5)
    # A button that is still down when an episode ends is up in the next one.
    env.step("mouse_down()")
    env = on("click-test")
    assert env.step(f"click('{env.page[0].ref}')")[4]["success"]


@pytest.mark.parametrize(
    ("reward", "wrong", "right"), [("binary", 0.0, 1.0), ("raw", -1.0, 1.0), ("decayed", -1.0, 0.75)]
)
def test_the_reward_is_the_one_asked_for(on, reward, wrong, right):
    for name, expected in (("TWO", wrong), ("ONE", right)):
        env = on("click-test-2")
        env.reward, env.max_steps = reward, 8
        try:
            env.step("noop()")
            env.step("noop()")
            _, value, terminated, _, info = env.step(f"click('{element(env, 'button', name).ref}')")
        finally:
            env.reward, env.max_steps = "binary", 20
        assert terminated and value == pytest.approx(expected) and info["success"] == (name == "ONE")


def test_a_model_that_thinks_for_longer_than_miniwobs_limit_loses_nothing(on, ref):
    env = on("click-test")
    time.sleep(10.5)
    env.reward = "raw"
    try:
        _, reward, terminated, _, info = env.step(f"click('{ref(env, 'button')}')")
    finally:
        env.reward = "binary"
    assert (reward, terminated, info["success"]) == (1.0, True, True)


def test_the_step_limit_truncates(make):
    env = make("click-test", max_steps=3)
    env.reset(seed=0)
    assert [env.step(text)[2:4] for text in ("noop()", "rubbish", "noop()")] == [
        (False, False),
        (False, False),
        (False, True),
    ]


def test_the_page_moves_with_the_steps_not_with_the_clock(on):
    env = on("stock-market", seed=0)
    first = env._observe()
    time.sleep(1)
    report = env._browser.call("settle", 0)
    assert [e["name"] for e in report["elements"]] == [e.name for e in env.page]
    env.step("noop()")
    assert env._observe()[1] != first[1]


def test_no_connection_leaves_the_browser(on):
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        env = on("click-test")
        tried = env._browser.driver.execute_script(
            "return fetch(arguments[0], {mode: 'no-cors'}).then(() => 'reached', () => 'blocked')", url
        )
        env._browser.driver.execute_script("location = arguments[0]", url)
        time.sleep(0.5)
        server.shutdown()
    assert tried == "blocked" and hits == []


def test_leaving_the_page_ends_the_episode_without_success(on):
    env = on("click-test")
    env._browser.driver.get("about:blank")
    _, reward, terminated, _, info = env.step("noop()")
    assert (reward, terminated, info["success"]) == (0.0, True, False)
    env = on("click-test")
    assert env.step(f"click('{env.page[0].ref}')")[4]["success"]
