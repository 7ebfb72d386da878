# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import threading

import numpy as np
import pytest


pytest.importorskip("minigrid")
from minigrid.envs.babyai.core.verifier import GoToInstr  # noqa: E402
from minigrid.utils import baby_ai_bot  # noqa: E402

from trl_vlmq.envs import BehaviorUnavailableError  # noqa: E402
from trl_vlmq.envs.babyai_behaviors import Expert, Planner, WrongGoal  # noqa: E402


def play(env, name, seed, rng_seed=0):
    """One episode. Returns the texts sent, whether it succeeded, and the behaviour."""
    env.reset(seed=seed)
    behavior = env.make_behavior(name, np.random.default_rng(rng_seed))
    texts, ended = [], False
    while not ended:
        texts.append(behavior.act())
        _, _, terminated, truncated, info = env.step(texts[-1])
        assert info["action_is_valid"]
        ended = terminated or truncated
    return texts, info["success"], behavior


def success_rate(env, name, episodes):
    rates = []
    for seed in range(episodes):
        try:
            rates.append(play(env, name, seed)[1])
        except BehaviorUnavailableError:
            continue
    return np.mean(rates)


@pytest.mark.parametrize("level", ["GoToObj", "GoToLocal", "PickupLoc", "OpenDoor", "PutNextLocal", "UnlockLocal"])
def test_the_expert_solves_easy_levels(make_babyai, level):
    assert success_rate(make_babyai(level), "expert", 10) == 1.0


def test_behaviors_differ_in_quality(make_babyai):
    env = make_babyai("GoToLocalS6N2")
    rates = {name: success_rate(env, name, 40) for name in env.behaviors}
    assert rates["wrong_goal"] <= 0.05 < 0.15 < rates["random"] < 0.6 < 0.9 < rates["noisy_expert"] <= rates["expert"]
    assert rates["expert"] == 1.0


def test_an_expert_that_believes_to_be_done_goes_on_at_random(make_babyai):
    env = make_babyai("GoToLocal")
    env.reset(seed=0)
    behavior = env.make_behavior("expert", np.random.default_rng(0))
    behavior.planner.stack.clear()
    assert len({behavior.act() for _ in range(50)}) == 6 and behavior.failed


@pytest.mark.parametrize("name", ["random", "expert", "noisy_expert", "wrong_goal"])
def test_the_generator_decides_everything(make_babyai, name):
    env = make_babyai("GoToLocal")
    np.random.seed(1)
    first = play(env, name, seed=5, rng_seed=1)[0]
    np.random.seed(2)
    assert play(env, name, seed=5, rng_seed=1)[0] == first
    if name != "expert":
        assert play(env, name, seed=5, rng_seed=2)[0] != first


def test_the_noisy_expert_replans_after_what_really_happened(make_babyai):
    env = make_babyai("PutNextLocal")
    results = [play(env, "noisy_expert", seed, rng_seed=seed) for seed in range(30)]
    assert np.mean([success for _, success, _ in results]) > 0.8
    assert np.mean([behavior.failed for *_, behavior in results]) < 0.2  # a box opened by chance


def test_an_expert_copes_with_actions_that_it_did_not_choose(make_babyai):
    env, rng = make_babyai("PickupLoc"), np.random.default_rng(0)
    successes = []
    for seed in range(20):
        env.reset(seed=seed)
        behavior = env.make_behavior("expert", rng)
        ended = False
        while not ended:
            text = behavior.act()
            other = rng.random()
            text = "rubbish" if other < 0.1 else '{"action": "turn left"}' if other < 0.2 else text
            _, _, terminated, truncated, info = env.step(text)
            ended = terminated or truncated
        successes.append(info["success"])
    assert np.mean(successes) > 0.9


def test_an_expert_notices_that_its_action_was_not_executed(make_babyai):
    env = make_babyai("PutNextLocal")
    for seed in range(10):
        env.reset(seed=seed)
        behavior = env.make_behavior("expert", np.random.default_rng(0))
        lost, ended = set(), False
        while not ended:
            text = behavior.act()
            if text not in lost:  # the first "pick up", the first "drop", ... does not get through
                lost.add(text)
                text = "rubbish"
            _, _, terminated, truncated, info = env.step(text)
            ended = terminated or truncated
        assert info["success"] and not behavior.failed


def test_the_noise_is_that_of_epsilon(make_babyai):
    env = make_babyai("GoToObj", max_steps=10_000)
    env.reset(seed=0)
    behavior = Expert(env, np.random.default_rng(0), epsilon=1.0)
    counts = {}
    for _ in range(600):
        text = behavior.act()  # never executed: the planned action stays the same
        counts[text] = counts.get(text, 0) + 1
    assert len(counts) == 6 and min(counts.values()) > 60


def test_wrong_goal_walks_to_an_object_that_the_mission_does_not_name(make_babyai):
    env = make_babyai("GoToLocal")
    reached = [0] * 20
    for seed in range(20):
        env.reset(seed=seed)
        behavior = env.make_behavior("wrong_goal", np.random.default_rng(seed))
        named = env.level.instrs.desc
        ended = False
        while not ended:
            target = behavior.target
            assert (target.type, target.color) != (named.type, named.color)
            _, _, terminated, truncated, info = env.step(behavior.act())
            reached[seed] += env.level.grid.get(*env.level.front_pos) is target
            ended = terminated or truncated
        assert not info["success"]
    assert np.mean(np.array(reached) > 0) > 0.9  # the others are walled in by the objects it keeps from facing


def test_wrong_goal_goes_straight_to_its_first_object(make_babyai):
    env = make_babyai("GoToLocalS6N2")
    steps = []
    for seed in range(20):
        env.reset(seed=seed)
        try:
            behavior = env.make_behavior("wrong_goal", np.random.default_rng(seed))
        except BehaviorUnavailableError:
            continue
        target = behavior.target
        while env.level.grid.get(*env.level.front_pos) is not target and env.elapsed_steps < env.max_steps - 1:
            env.step(behavior.act())
        steps.append(env.elapsed_steps)
    assert np.median(steps) <= 6


def test_wrong_goal_stays_where_it_believes_the_goal_to_be(make_babyai):
    env = make_babyai("GoToLocalS6N2")
    stayed = 0
    for seed in range(10):
        env.reset(seed=seed)
        try:
            behavior = env.make_behavior("wrong_goal", np.random.default_rng(seed))
        except BehaviorUnavailableError:
            continue
        ended, arrived = False, None
        while not ended:
            _, _, terminated, truncated, info = env.step(behavior.act())
            if arrived is not None:
                assert info["executed_action"] == "go forward" and not info["action_is_effective"]
                assert (env.level.agent_pos, env.level.agent_dir) == arrived
                stayed += 1
            elif env.level.grid.get(*env.level.front_pos) is behavior.target:
                arrived = (env.level.agent_pos, env.level.agent_dir)
            ended = terminated or truncated
    assert stayed > 100


def test_wrong_goal_follows_an_object_that_was_moved(make_babyai):
    env = make_babyai("GoToLocalS8N2")
    found = 0
    for seed in range(2, 10):  # in episode 1 both objects are named
        env.reset(seed=seed)
        behavior = WrongGoal(env, np.random.default_rng(seed))
        behavior.act()
        target, level = behavior.target, env.level
        level.grid.set(*target.cur_pos, None)
        level.place_obj(target)
        for _ in range(25):
            env.step(behavior.act())
            if level.grid.get(*level.front_pos) is target:
                found += 1
                break
    assert found == 8


def test_wrong_goal_leaves_the_missions_verifier_alone(make_babyai):
    def verifier(env):
        instruction = env.level.instrs
        description = instruction.desc
        things = [id(thing) for thing in description.obj_set]
        return (
            id(instruction),
            id(instruction.env),
            id(description),
            things,
            list(description.obj_poss),
            env.level.mission,
        )

    env = make_babyai("GoToLocal")
    for seed in range(5):
        env.reset(seed=seed)
        before, grid = verifier(env), env.level.grid.encode().tobytes()
        behavior = env.make_behavior("wrong_goal", np.random.default_rng(0))
        behavior.act()
        assert verifier(env) == before and env.level.grid.encode().tobytes() == grid
        # and the mission can still be accomplished afterwards
        expert, ended = env.make_behavior("expert", np.random.default_rng(0)), False
        while not ended:
            _, _, terminated, truncated, info = env.step(expert.act())
            ended = terminated or truncated
        assert info["success"]


def test_wrong_goal_is_refused_where_every_object_is_named(make_babyai):
    env = make_babyai("GoToObj")
    env.reset(seed=0)
    with pytest.raises(BehaviorUnavailableError, match="BabyAI-GoToObj-v0: 'wrong_goal' needs an object other than"):
        env.make_behavior("wrong_goal", np.random.default_rng(0))


def test_a_sequence_of_instructions_names_all_its_objects(make_babyai):
    env = make_babyai("BossLevel")
    for seed in range(10):
        env.reset(seed=seed)
        behavior = WrongGoal(env, np.random.default_rng(0))
        for word in (f"{behavior.target.color} {behavior.target.type}", f"a {behavior.target.type} "):
            assert word not in env.level.mission + " "


def test_a_behavior_does_not_outlive_its_episode(make_babyai):
    env = make_babyai("GoToLocal")
    env.reset(seed=0)
    behavior = env.make_behavior("expert", np.random.default_rng(0))
    env.reset(seed=1)
    with pytest.raises(RuntimeError, match="make another one after each reset"):
        behavior.act()


@pytest.mark.parametrize("name", ["explode", ""])
def test_an_unknown_behavior_is_refused_with_the_names_there_are(make_babyai, name):
    env = make_babyai("GoToLocal")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="use one of .*'random', 'expert', 'noisy_expert', 'wrong_goal'"):
        env.make_behavior(name, np.random.default_rng(0))


def test_the_watchdog_stops_a_planner_that_goes_round_in_circles(make_babyai, monkeypatch):
    def circle(self):
        self.bot.stack.pop()
        self.bot.stack.append(self)

    monkeypatch.setattr(baby_ai_bot.GoNextToSubgoal, "replan_before_action", circle)
    texts, _, behavior = play(make_babyai("GoToLocal"), "expert", seed=0)
    assert behavior.failed and len(set(texts)) > 2  # at random from there on


@pytest.mark.parametrize("error", [AssertionError, IndexError, TypeError])
def test_a_planner_that_raises_is_replaced_by_random_actions(make_babyai, monkeypatch, error):
    def fail(self, action_taken=None):
        raise error("planted")

    monkeypatch.setattr(Planner, "replan", fail)
    texts, _, behavior = play(make_babyai("GoToLocal"), "expert", seed=0)
    assert behavior.failed and len(set(texts)) > 2


def test_the_watchdog_works_in_a_thread_on_the_level_where_minigrids_planner_hangs(make_babyai):
    results = []

    def run():
        results.append(play(make_babyai("UnlockToUnlock", max_steps=30), "expert", seed=4))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert results, "the planner hangs"
    texts, _, behavior = results[0]
    assert behavior.failed and len(texts) == 30


def test_planning_for_another_instruction_reads_the_level_only(make_babyai):
    env = make_babyai("GoToLocal")
    env.reset(seed=0)
    instruction, state = env.level.instrs, env.level.np_random.bit_generator.state
    Planner(env.level, GoToInstr(env.level.instrs.desc)).replan()
    assert env.level.instrs is instruction and env.level.np_random.bit_generator.state == state
    assert env.level.step_count == 0
