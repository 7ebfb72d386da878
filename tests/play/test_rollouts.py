# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What is played is what is stored, and it depends on the seed and the policy alone."""

from collections import Counter
from itertools import islice

import pytest

from trl_vlmq import (
    BehaviorPolicy,
    VLMPolicy,
    dataset_to_episodes,
    episodes_to_dataset,
    play_episodes,
    validate_episodes,
)
from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.envs import BehaviorUnavailableError, PromptBuilder
from trl_vlmq.episodes import Episode
from trl_vlmq.replay import ReplayBuffer
from trl_vlmq.rollout import episode_seed


@pytest.fixture(params=["greedy", "sampled", "random", "mixture"])
def policy(request, backbone):
    return {
        "greedy": VLMPolicy(backbone, max_new_tokens=4),
        "sampled": VLMPolicy(backbone, temperature=1.0, max_new_tokens=4),
        "random": BehaviorPolicy("random"),
        "mixture": BehaviorPolicy({"random": 3, "expert": 1, "goes_left": 2}),
    }[request.param]


@pytest.fixture
def sampling(backbone) -> VLMPolicy:
    """A policy that says all kinds of things, stops early at times, and hits the limit at others."""
    backbone.model.get_output_embeddings().weight.data[backbone.stop_token_id] *= 3
    yield VLMPolicy(backbone, temperature=1.0, max_new_tokens=4)
    backbone.model.get_output_embeddings().weight.data[backbone.stop_token_id] /= 3


def content(episode: Episode) -> list:
    """Everything about an episode, comparable; pictures as their bytes."""
    turns = []
    for turn in episode.turns:
        values = dict(vars(turn))
        for name in ("images", "final_images"):
            values[name] = values[name] and [(image.mode, image.size, image.tobytes()) for image in values[name]]
        turns.append(values)
    return [episode.episode_id, turns]


@pytest.mark.parametrize("num_envs", [3, 16])
def test_episodes_do_not_depend_on_how_many_are_played_at_once(corridor, policy, num_envs):
    one, many = ([content(e) for e in play_episodes(corridor, policy, 9, seed=5, num_envs=n)] for n in (1, num_envs))
    assert one == many
    assert len(corridor.made) == 1 + min(num_envs, 9)
    assert len({tuple(turn["completion"] for turn in turns) for _, turns in one}) > 1 or isinstance(policy, VLMPolicy)


def test_the_same_seed_gives_the_same_episodes_and_another_one_does_not(corridor, sampling):
    first, again, other = (
        [content(e) for e in play_episodes(corridor, sampling, 6, seed=seed, num_envs=4)] for seed in (5, 5, 6)
    )
    assert first == again
    assert [turns for _, turns in first] != [turns for _, turns in other]


def test_more_episodes_begin_with_the_same_ones(corridor, sampling):
    few, more = ([content(e) for e in play_episodes(corridor, sampling, n, seed=5, num_envs=4)] for n in (3, 8))
    assert more[:3] == few


def test_sampled_actions_differ_between_turns_and_between_episodes(corridor, sampling):
    episodes = list(play_episodes(corridor, sampling, 8, seed=1))
    assert len({e.turns[0].completion for e in episodes}) > 2
    assert any(len({turn.completion for turn in e.turns}) > 2 for e in episodes)


@pytest.mark.parametrize("history", [0, 2])
def test_an_episode_is_what_the_environment_did(corridor, sampling, history):
    """Replayed action by action: prompts, pictures, rewards and flags, the final observation included."""
    builder = PromptBuilder(history=history, history_images=history > 0)
    env = corridor()
    ends = Counter()
    for index, episode in enumerate(play_episodes(corridor, sampling, 12, seed=3, prompt_builder=builder)):
        observation, _ = env.reset(seed=episode_seed(3, index))
        past = []
        for turn in episode.turns:
            prompt, images = builder.build(observation, past)
            assert (turn.prompt, turn.images) == (prompt, images)
            past.append((observation, turn.completion))
            observation, reward, terminated, truncated, info = env.step(turn.completion)
            assert (turn.reward, turn.terminated, turn.truncated) == (reward, terminated, truncated)
            assert (turn.action_is_valid, turn.executed_action) == (info["action_is_valid"], info["executed_action"])
            last = terminated or truncated
            assert last == (turn is episode.turns[-1])
            if truncated:
                assert (turn.final_prompt, turn.final_images) == builder.build(observation, past)
            else:
                assert turn.final_prompt is None and turn.final_images is None
        assert {turn.success for turn in episode.turns} == {info["success"]}
        assert {turn.env_id for turn in episode.turns} == {"Corridor"}
        assert {turn.behavior for turn in episode.turns} == {"policy"}
        ends["terminated" if terminated else "truncated"] += 1
    assert len(ends) == 2, "the episodes do not end in both ways"
    env.close()


def test_history_window_recalls_the_last_turns(corridor):
    builder = PromptBuilder(history=2, history_images=True)
    (episode,) = play_episodes(corridor, BehaviorPolicy("random"), 1, seed=8, prompt_builder=builder)
    assert episode.length > 3
    for number, turn in enumerate(episode.turns):
        recalled = episode.turns[max(0, number - 2) : number]
        text = turn.prompt[0]["content"][-1]["text"]
        said = "; ".join(past.completion for past in recalled)
        assert text.startswith(f"Earlier: {said}\n" if recalled else "Goal")
        assert turn.images[:-1] == [past.images[-1] for past in recalled]
        assert turn.prompt[0]["content"][:-1] == [{"type": "image"}] * len(turn.images)


def test_played_episodes_are_valid_data_and_come_back_unchanged(corridor, policy):
    episodes = list(play_episodes(corridor, policy, 9, seed=5))
    dataset = episodes_to_dataset(episodes)
    validate_episodes(dataset)
    assert len(set(dataset["episode_id"])) == 9
    assert [content(e) for e in dataset_to_episodes(dataset)] == [content(e) for e in episodes]


def test_sampled_tokens_are_trained_on_as_they_are(corridor, sampling):
    episodes = list(play_episodes(corridor, sampling, 12, seed=3))
    collator, backbone = TokenTDCollator(sampling.backbone), sampling.backbone
    turns = [turn for episode in episodes for turn in episode.turns]
    rows = [row for segment in list(ReplayBuffer(episodes_to_dataset(episodes))) for row in segment.rows]
    assert [collator.action(row)[0] for row in rows] == [turn.completion_ids for turn in turns]
    for turn in turns:
        assert turn.completion == backbone.decode(turn.completion_ids)
        assert turn.completion_stopped == (turn.completion_ids[-1] == backbone.stop_token_id)
        assert turn.completion_stopped or len(turn.completion_ids) == 4
    assert {turn.completion_stopped for turn in turns} == {True, False}
    # Such tokens need not be those that the tokenizer would make of their text.
    assert any(backbone.completion_ids(turn.completion) != turn.completion_ids for turn in turns)


def test_text_that_is_no_action_is_stored_as_it_was_written(corridor, sampling):
    turns = [turn for episode in play_episodes(corridor, sampling, 12, seed=3) for turn in episode.turns]
    invalid = [turn for turn in turns if not turn.action_is_valid]
    assert invalid and len(invalid) < len(turns)
    assert [turn for turn in turns if corridor.made[0].grammar.parse(turn.completion) is None] == invalid
    assert all(turn.executed_action is None for turn in invalid) and any(turn.completion for turn in invalid)


def test_a_substituted_action_does_not_change_what_was_written(corridor, sampling):
    episodes = play_episodes(lambda: corridor(invalid_action="random"), sampling, 12, seed=3)
    invalid = [turn for episode in episodes for turn in episode.turns if not turn.action_is_valid]
    assert invalid and {turn.executed_action for turn in invalid} == {"left", "right"}
    assert all(turn.completion == sampling.backbone.decode(turn.completion_ids) for turn in invalid)


# ---- Behaviours ----


def test_weights_of_a_mixture_are_respected(corridor):
    policy = BehaviorPolicy({"random": 3, "expert": 1, "goes_left": 0})
    played = Counter(e.behavior for e in play_episodes(corridor, policy, 400, seed=2, num_envs=16))
    assert played.keys() == {"random", "expert"}
    assert 60 <= played["expert"] <= 140  # 100 expected, four and a half standard deviations


def test_the_label_is_the_behaviour_that_acted(corridor):
    episodes = list(play_episodes(corridor, BehaviorPolicy({"random": 1, "expert": 1}), 40, seed=2, num_envs=7))
    experts = [e for e in episodes if e.behavior == "expert"]
    others = [e for e in episodes if e.behavior == "random"]
    assert all(e.success and e.length == 2 for e in experts)
    assert any(e.length > 2 for e in others) and len(experts) + len(others) == 40


@pytest.mark.parametrize("num_envs", [1, 16])
def test_where_a_behaviour_cannot_act_another_episode_is_played(corridor, num_envs):
    episodes = list(play_episodes(corridor, BehaviorPolicy("goes_left"), 20, seed=2, num_envs=num_envs))
    assert [e.behavior for e in episodes] == ["goes_left"] * 20
    assert all("Goal 0" in e.turns[0].prompt[0]["content"][-1]["text"] for e in episodes)
    assert len({e.episode_id for e in episodes}) == 20 and [e.episode_id[-6:] for e in episodes][:2] == [
        "000000",
        "000001",
    ]


def test_a_behaviour_that_never_can_act_says_so(corridor, monkeypatch):
    def unavailable(self, name, rng):
        raise BehaviorUnavailableError("never")

    monkeypatch.setattr(corridor, "_make_behavior", unavailable)
    with pytest.raises(BehaviorUnavailableError, match="never"):
        list(play_episodes(corridor, BehaviorPolicy("goes_left"), 2, num_envs=2))


@pytest.mark.parametrize("mixture", [{}, {"random": 0}, {"random": -1, "expert": 2}])
def test_a_mixture_without_positive_weights_is_refused(mixture):
    with pytest.raises(ValueError, match="positive weight"):
        BehaviorPolicy(mixture)


def test_an_unknown_behaviour_is_named(corridor):
    with pytest.raises(ValueError, match="'genius' is not a behavior of Corridor: use one of"):
        list(play_episodes(corridor, BehaviorPolicy("genius"), 1))


# ---- Environments: the fixture asserts that each has been closed once ----


def test_environments_are_closed_when_the_reader_stops_early(corridor):
    assert len(list(islice(play_episodes(corridor, BehaviorPolicy("random"), 50, num_envs=3), 2))) == 2


def test_environments_are_closed_when_one_of_them_fails(corridor, monkeypatch):
    real, steps = corridor._execute, []

    def execute(self, action):
        steps.append(action)
        if len(steps) == 20:
            raise RuntimeError("the simulator crashed")
        return real(self, action)

    monkeypatch.setattr(corridor, "_execute", execute)
    with pytest.raises(RuntimeError, match="the simulator crashed"):
        list(play_episodes(corridor, BehaviorPolicy("random"), 50, num_envs=3))


def test_environments_are_closed_when_a_reset_fails(corridor, monkeypatch):
    real, resets = corridor._reset, []

    def reset(self, seed, options):
        resets.append(seed)
        if len(resets) == 5:
            raise RuntimeError("no level")
        return real(self, seed, options)

    monkeypatch.setattr(corridor, "_reset", reset)
    with pytest.raises(RuntimeError, match="no level"):
        list(play_episodes(corridor, BehaviorPolicy("random"), 50, num_envs=3))


def test_environments_are_closed_when_another_cannot_be_made(corridor):
    def make():
        if len(corridor.made) == 2:
            raise RuntimeError("no browser")
        return corridor()

    with pytest.raises(RuntimeError, match="no browser"):
        list(play_episodes(make, BehaviorPolicy("random"), 50, num_envs=3))


@pytest.mark.parametrize("num_envs", [0, -1])
def test_no_environments_at_all_is_refused(corridor, num_envs):
    with pytest.raises(ValueError, match=f"num_envs={num_envs}"):
        list(play_episodes(corridor, BehaviorPolicy("random"), 3, num_envs=num_envs))


def test_a_registered_environment_is_made_by_its_id():
    pytest.importorskip("minigrid")
    env_id = "trl_vlmq/BabyAI-GoToObj-v0"
    episodes = play_episodes(env_id, BehaviorPolicy("expert"), 2, env_kwargs={"tile_size": 4, "max_steps": 30})
    for episode in episodes:
        assert episode.env_id == env_id and episode.success and episode.turns[0].images[0].size == (28, 28)
