# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Environments that raise, hang or die take their own episode with them and nothing else."""

import math
import threading
import time

import pytest

from trl_vlmq import BehaviorPolicy, evaluate_policy, load_episodes, play_episodes
from trl_vlmq.backbones import GeneratedAction
from trl_vlmq.env_worker import EnvironmentFailureError, FaultTolerance
from trl_vlmq.envs import RolloutSettings
from trl_vlmq.logs import collect_logs


RANDOM = BehaviorPolicy("random")


def contents(episodes) -> dict[str, list]:
    return {episode.episode_id: [(t.completion, t.reward) for t in episode.turns] for episode in episodes}


@pytest.fixture
def failing(lamp):
    """`failing(seeds, what)`: a lamp that does `what` in the second step of episodes with these colors."""

    def factory(what, chosen):
        made, closed = [], []

        class Failing(lamp):
            def __init__(self):
                super().__init__()
                made.append(self)

            def _execute(self, action):
                if self.elapsed_steps == 1 and chosen(self.color):
                    what()
                return super()._execute(action)

            def close(self):
                closed.append(self)

        return Failing, made, closed

    return factory


def crash():
    raise RuntimeError("the simulator crashed")


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("timeout", [None, 30.0])
def test_the_other_episodes_are_what_they_would_have_been(lamp, failing, num_envs, timeout):
    whole = contents(play_episodes(lamp, RANDOM, 30, seed=2))
    env, made, closed = failing(crash, lambda color: color < 100)
    faults = FaultTolerance(max_lost=30)
    rest = contents(play_episodes(env, RANDOM, 30, seed=2, num_envs=num_envs, faults=faults, step_timeout=timeout))
    assert 5 < len(rest) < 30 and rest.items() <= whole.items()
    assert len(faults.lost) == 30 - len(rest) and "the simulator crashed" in faults.lost[0]
    assert len(made) <= num_envs + len(faults.lost)
    time.sleep(0.1)  # closing happens in the environment's own thread
    assert set(map(id, made)) == set(map(id, closed))


def test_without_tolerance_the_first_failure_is_raised(failing):
    env, made, closed = failing(crash, lambda color: color < 100)
    with pytest.raises(RuntimeError, match="the simulator crashed"):
        list(play_episodes(env, RANDOM, 30, seed=2))
    assert len(made) == len(closed)


def test_a_hanging_step_ends_at_its_deadline(lamp, failing):
    release = threading.Event()
    whole = contents(play_episodes(lamp, RANDOM, 12, seed=2))
    env, made, _ = failing(release.wait, lambda color: color < 60)
    faults = FaultTolerance(max_lost=12)
    try:
        rest = contents(play_episodes(env, RANDOM, 12, seed=2, num_envs=3, step_timeout=0.3, faults=faults))
    finally:
        release.set()
    assert 0 < len(faults.lost) == 12 - len(rest) and rest.items() <= whole.items()
    assert "the step took more than 0.3 seconds" in faults.lost[0]
    assert len(made) > 3


def test_too_many_failures_stop_with_the_reason(failing):
    env, made, closed = failing(crash, lambda color: True)
    faults = FaultTolerance(max_lost=4)
    match = r"5 episodes were lost to failing environments and at most 4 may be(.|\n)*the simulator crashed"
    with pytest.raises(EnvironmentFailureError, match=match):
        list(play_episodes(env, RANDOM, 30, seed=2, num_envs=2, faults=faults))
    assert len(made) == len(closed)


def test_an_environment_that_cannot_be_made_again_costs_episodes_until_it_is_too_many(lamp):
    made = []

    def make():
        made.append(1)
        if len(made) > 2:
            raise OSError("no browser")
        return lamp()

    faults = FaultTolerance(max_lost=1)
    with pytest.raises(EnvironmentFailureError, match="no browser"):
        list(play_episodes(make, RANDOM, 30, seed=2, num_envs=4, faults=faults))


def test_steps_of_slow_environments_run_side_by_side(lamp):
    together, most = [], []

    class Slow(lamp):
        def _execute(self, action):
            together.append(1)
            most.append(len(together))
            time.sleep(0.05)
            together.pop()
            return super()._execute(action)

    list(play_episodes(Slow, RANDOM, 4, seed=2, num_envs=4, step_timeout=30.0))
    assert max(most) > 1


def test_a_bug_in_a_policy_is_not_blamed_on_the_environment(lamp):
    class Broken:
        def name(self, seed):
            return "broken"

        def start(self, situation):
            raise KeyError("a bug of mine")

        def act(self, situations):
            return []

    with pytest.raises(KeyError, match="a bug of mine"):
        list(play_episodes(lamp, Broken(), 3, faults=FaultTolerance(max_lost=99)))


def test_garbage_and_silence_are_recorded_as_they_are(lamp):
    said = ["", "\ud83c garbage \x00", "[" * 3000]

    class Babbler:
        def name(self, seed):
            return "babbler"

        def start(self, situation):
            pass

        def act(self, situations):
            return [GeneratedAction(said[s.turn % 3], [5], False, 0.0) for s in situations]

    for episode in play_episodes(lamp, Babbler(), 3, faults=FaultTolerance(max_lost=0)):
        assert [turn.completion for turn in episode.turns] == said
        assert not any(turn.action_is_valid for turn in episode.turns[:1]) and episode.truncated


def test_later_episodes_are_the_same_when_earlier_ones_are_there_already(lamp):
    whole = contents(play_episodes(lamp, RANDOM, 20, seed=2))
    first = contents(play_episodes(lamp, RANDOM, 13, seed=2))
    rest = contents(play_episodes(lamp, RANDOM, 7, seed=2, first_episode=13))
    assert first | rest == whole and not first.keys() & rest.keys()


@pytest.fixture
def failing_once(failing):
    """A lamp that crashes in some episodes, and no longer when they are played again."""

    def factory():
        seen = set()

        def chosen(color):
            new = color < 100 and color not in seen
            seen.add(color)
            return new

        env, made, _ = failing(crash, chosen)
        return env, made

    return factory


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_lost_episodes_of_an_evaluation_are_played_again(lamp, failing_once, timeout):
    whole = evaluate_policy(lamp, RANDOM, 30, seed=2, progress=None)
    env, made = failing_once()
    result = evaluate_policy(
        env, RANDOM, 30, seed=2, num_envs=4, max_lost_share=0.9, step_timeout=timeout, progress=None
    )
    assert len(made) > 4, "none was lost"
    for name in ("success", "returns", "lengths", "valid_actions"):
        assert getattr(result, name).tolist() == getattr(whole, name).tolist()


def test_logs_are_complete_though_episodes_were_lost(lamp, failing_once, tmp_path):
    rows = []
    for name, env in (("whole", lamp), ("again", failing_once()[0])):
        collect_logs(tmp_path / name, env, RANDOM, 12, seed=2, num_envs=3, max_lost_share=0.9, progress=None)
        rows.append(
            load_episodes(tmp_path / name).select_columns(["episode_id", "turn", "completion", "reward"]).to_list()
        )
    assert rows[0] == rows[1]


def test_an_environment_says_itself_how_it_is_played_in(failing_once, caplog):
    env, made = failing_once()
    threads, step = set(), env.step
    env.step = lambda self, text: threads.add(threading.current_thread().name) or step(self, text)
    env.rollout_settings = RolloutSettings(num_envs=2, step_timeout=30.0, max_lost_share=0.9)
    result = evaluate_policy(env, RANDOM, 30, seed=2, progress=None)
    lost = caplog.text.count("played again in a new environment")
    assert len(result.success) == 30 and lost > 0 and len(made) == 2 + lost
    assert threads == {"environment"}
    threads.clear()
    evaluate_policy(env, RANDOM, 3, seed=2, step_timeout=math.inf, progress=None)
    assert threads == {"MainThread"}
    with pytest.raises(RuntimeError, match="the simulator crashed"):
        evaluate_policy(failing_once()[0], RANDOM, 30, seed=2, progress=None)


def test_an_episode_that_always_fails_ends_an_evaluation_with_the_reason(failing):
    env, _, _ = failing(crash, lambda color: color < 100)
    with pytest.raises(EnvironmentFailureError, match=r"was lost 3 times(.|\n)*the simulator crashed"):
        evaluate_policy(env, RANDOM, 30, seed=2, max_lost_share=0.9, progress=None)


def test_an_environment_that_cannot_be_made_is_not_tried_for_hours():
    tries = []

    def make():
        tries.append(1)
        raise RuntimeError("no simulator here")

    with pytest.raises(EnvironmentFailureError, match="no simulator here"):
        evaluate_policy(make, RANDOM, 1000, max_lost_share=0.9, progress=None)
    assert len(tries) == 3


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_lost_episodes_that_cannot_be_is_refused(lamp, share):
    with pytest.raises(ValueError, match=f"max_lost_share={share}"):
        evaluate_policy(lamp, RANDOM, 3, max_lost_share=share, progress=None)
