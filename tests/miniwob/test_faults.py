# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A browser that is killed or hangs takes its own episode with it and nothing else; what a model writes harms nothing."""

import functools
import signal
import threading

import pytest

from trl_vlmq import BehaviorPolicy, evaluate_policy, play_episodes
from trl_vlmq.backbones import GeneratedAction
from trl_vlmq.env_worker import FaultTolerance
from trl_vlmq.rollout import rollout_settings


pytestmark = pytest.mark.slow


def solve(env):
    """Whether the environment works: an episode of click-test with its one action."""
    env.reset(seed=0)
    return env.step(f"click('{env.page[0].ref}')")[4]["success"]


@pytest.mark.parametrize("name", ["chromium", "chromedriver"])
def test_killed_between_two_steps(make, processes, all_gone, name):
    from trl_vlmq.envs.miniwob.process import BrowserError

    env = make()
    env.reset(seed=0)
    everything = [process.pid for process in processes(env)]
    processes(env, name)[0].kill()
    with pytest.raises(BrowserError, match="reset\\(\\) starts another browser"):
        env.step("noop()")
    assert all_gone(everything)
    assert solve(env)


@pytest.mark.parametrize("moment", ["step", "reset"])
def test_killed_within_a_call(make, processes, all_gone, moment):
    from trl_vlmq.envs.miniwob.process import BrowserError

    env = make()
    env.reset(seed=0)
    everything = [process.pid for process in processes(env)]
    browser = processes(env, "chromium")[0]
    browser.send_signal(signal.SIGSTOP)  # so that the call is still running when the kill comes
    threading.Timer(0.7, browser.kill).start()
    with pytest.raises(BrowserError):
        env.step("noop()") if moment == "step" else env.reset(seed=1)
    assert all_gone(everything)
    assert solve(env)


def test_a_browser_that_hangs_is_given_up_after_the_timeout(make, processes, all_gone):
    from trl_vlmq.envs.miniwob.process import BrowserError

    env = make(browser_timeout=3.0)
    env.reset(seed=0)
    everything = [process.pid for process in processes(env)]
    processes(env, "chromium")[0].send_signal(signal.SIGSTOP)
    with pytest.raises(BrowserError, match="died or hangs"):
        env.step("noop()")
    assert all_gone(everything)


def test_a_page_that_never_settles_costs_a_bounded_time_or_the_episode(make):
    from trl_vlmq.envs.miniwob.process import BrowserError

    env = make(browser_timeout=5.0)
    env.reset(seed=0)
    # It may animate, poll and reschedule itself for ever: only a second of its time passes with each step.
    env._browser.driver.execute_script(
        "let n = 0; const again = () => { document.title = ++n; setTimeout(again); requestAnimationFrame(() => {}); };"
        "again(); setInterval(() => Promise.resolve().then(() => n++), 1);"
    )
    assert env.step("noop()")[1:4] == (0.0, False, False)
    env._browser.driver.execute_script("document.querySelector('button').onmousedown = () => { for (;;); }")
    with pytest.raises(BrowserError):
        env.step(f"click('{env.page[0].ref}')")
    assert solve(env)


def contents(episodes):
    return {episode.episode_id: [(t.completion, t.reward) for t in episode.turns] for episode in episodes}


def test_in_rollouts_its_episode_is_dropped_and_counted_and_the_others_are_what_they_were(make, processes):
    made, resets = [], []

    def sabotaged(kill):
        env = make("click-test-2", max_steps=4)
        made.append(env)
        reset = env._reset

        @functools.wraps(reset)
        def wrapped(seed, options):
            info = reset(seed, options)
            resets.append(seed)
            if kill and len(resets) == 3:
                processes(env, "chromium")[0].kill()
            return info

        env._reset = wrapped
        return env

    policy = BehaviorPolicy("random")
    whole = contents(play_episodes(lambda: sabotaged(False), policy, 6, seed=1, num_envs=2, step_timeout=60.0))
    resets.clear()
    faults = FaultTolerance(max_lost=1)
    rest = contents(
        play_episodes(lambda: sabotaged(True), policy, 6, seed=1, num_envs=2, step_timeout=60.0, faults=faults)
    )
    assert len(whole) == 6 and len(rest) == 5 and rest.items() <= whole.items()
    assert len(faults.lost) == 1 and "BrowserError" in faults.lost[0]
    assert all(env._browser is None for env in made)


def test_an_evaluation_plays_the_episode_of_a_killed_browser_again(make, processes):
    calls = []

    def sabotaged(kill):
        env = make("click-test-2", max_steps=4)
        step = env.step

        def wrapped(action):
            calls.append(action)
            if kill and len(calls) == 3:
                processes(env, "chromium")[0].kill()
            return step(action)

        env.step = wrapped
        return env

    def played(kill):
        return evaluate_policy(
            lambda: sabotaged(kill), BehaviorPolicy("random"), 6, num_envs=2, step_timeout=90.0, max_lost_share=0.2, progress=None
        )  # fmt: skip

    whole, steps = played(False), len(calls)
    calls.clear()
    again = played(True)
    assert len(calls) > steps, "none was lost"
    assert again.summary() == whole.summary() and again.lengths.tolist() == whole.lengths.tolist()


def test_by_its_id_a_few_browsers_are_started_and_may_be_lost(chromium):
    from trl_vlmq.envs.miniwob.env import MiniWoBEnv

    settings = rollout_settings("trl_vlmq/MiniWoB-click-test-v0")
    assert settings == MiniWoBEnv.rollout_settings == (4, 90.0, 0.1)
    assert (
        rollout_settings("trl_vlmq/MiniWoB")
        == rollout_settings(functools.partial(MiniWoBEnv, "click-test"))
        == settings
    )
    assert rollout_settings("trl_vlmq/BabyAI-GoToLocalS6N2-v0") == rollout_settings(lambda: None) == (None, None, 0.0)


SAID = [
    "x" * 10_000,
    "click('1')" + " " * 9_990,
    "\x00\x1b[2J\x07\u202e\ud800",
    "__import__('os').kill(__import__('os').getppid(), 9)",
    "fill('1', __import__('os').popen('id').read())",
    "import os; os.abort()",
    "",
]


def test_whatever_a_model_writes_the_episode_goes_on_and_it_is_counted_as_invalid(make):
    class Babbler:
        def name(self, seed):
            return "babbler"

        def start(self, situation):
            pass

        def act(self, situations):
            return [GeneratedAction(SAID[s.turn], [5], True, 0.0) for s in situations]

    faults = FaultTolerance(max_lost=0)
    env = functools.partial(make, "enter-text", max_steps=len(SAID), invalid_penalty=0.25)
    (episode,) = play_episodes(env, Babbler(), 1, faults=faults)
    assert [turn.completion for turn in episode.turns] == SAID and not faults.lost
    assert not any(turn.action_is_valid for turn in episode.turns) and episode.truncated
    assert [turn.reward for turn in episode.turns] == [-0.25] * len(SAID)
    told = [turn.prompt[-1]["content"][-1]["text"] for turn in episode.turns[1:]]
    assert all("\nError: " in text and len(text) < 2000 for text in told)
