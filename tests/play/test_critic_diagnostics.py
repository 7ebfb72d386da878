# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the diagnostics say of a critic is what one finds by looking at it state by state and token by token."""

import numpy as np
import pytest
import torch

from trl_vlmq import BehaviorPolicy, episodes_to_dataset, play_episodes
from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.diagnostics import (
    ActionRanking,
    ReturnCalibration,
    TokenCalibration,
    calibrate_returns,
    calibrate_tokens,
    plot_calibration,
    rank_actions,
    report_filter,
)
from trl_vlmq.losses import Objective


@pytest.fixture(scope="module")
def model(backbone) -> VLMActorCritic:
    """An untrained actor with a critic of random values."""
    torch.manual_seed(3)
    model = VLMActorCritic(backbone, Objective(filter_keep_confident=None), critic_hidden_size=16, num_critics=2)
    torch.nn.init.normal_(model.critic.down_weight)
    return model.eval()


@torch.no_grad()
def values_of(model: VLMActorCritic, prompt: list[dict], images: list, text: str) -> tuple[list, list, list]:
    """Q(s, a), V(s) and log pi(a|s) of each token of one action after one prompt, without padding."""
    backbone = model.backbone
    ids = backbone.completion_ids(text)
    inputs = backbone.collate([backbone.encode(prompt, images)], [ids])
    states, logits = backbone.forward(inputs, keep=len(ids))
    logits = logits[0].masked_fill(~backbone.valid_token_mask(), float("-inf"))
    logp, q = logits.log_softmax(-1), model.critic(states[0]).mean(0)
    tokens = torch.tensor(ids)[:, None]
    return q.gather(1, tokens)[:, 0].tolist(), (logp.exp() * q).sum(1).tolist(), logp.gather(1, tokens)[:, 0].tolist()


def test_the_ranking_reads_the_q_of_each_action_in_each_visited_state(corridor, model):
    """What is written for an action of the corridor is one letter and the stop token; the letter is the choice."""
    ranking = rank_actions(model, corridor, BehaviorPolicy("random"), 6, seed=5, batch_size=4)
    turns = [
        turn for e in play_episodes(corridor, BehaviorPolicy("random"), 6, seed=5, num_envs=1) for turn in e.turns
    ]
    assert ranking.actions == ["left", "right"] and len(ranking.q) == len(turns)
    expected = []
    for turn in turns:
        goal, position = (int(word.strip(",.")) for word in turn.prompt[0]["content"][-1]["text"].split()[1::2])
        found = [values_of(model, turn.prompt, turn.images, text) for text in ("d", "e")]
        expected.append((*(q[0] for q, _, _ in found), *(sum(logp) for _, _, logp in found), int(goal > position)))
    actual = np.column_stack([ranking.q, ranking.logp, ranking.right])
    # Environments play side by side: the states are the same, their order is not.
    np.testing.assert_allclose(
        actual[np.lexsort(actual.T.round(4))], np.array(expected)[np.lexsort(np.array(expected).T.round(4))], atol=1e-5
    )
    assert np.ptp(ranking.q) > 0.1, "all values alike: nothing would have been tested"


def test_the_numbers_of_a_ranking_are_what_counting_pairs_gives():
    rng = np.random.default_rng(0)
    q = rng.integers(0, 5, (40, 3)).astype(float)  # ties among them
    right = rng.integers(0, 3, 40)
    ranking = ActionRanking(["a", "b", "c"], right, q, -q)
    same, pooled = [], []
    for s in range(40):
        for m in range(3):
            if m == right[s]:
                continue
            same.append(np.sign(q[s, right[s]] - q[s, m]) / 2 + 0.5)
            for other in range(40):
                difference = (q[other, right[other]] - q[other].mean()) - (q[s, m] - q[s].mean())
                pooled.append(np.sign(round(difference, 9)) / 2 + 0.5)
    assert ranking.pairs() == pytest.approx(np.mean(same))
    assert ranking.auroc() == pytest.approx(np.mean(pooled), abs=2e-3)  # means of thirds tie up to rounding
    summary = ranking.summary()
    assert summary["q_agreement"] == np.mean([q[s].argmax() == right[s] for s in range(40)])
    assert summary["policy_agreement"] == np.mean([q[s].argmin() == right[s] for s in range(40)])


def test_a_critic_that_knows_the_right_action_has_an_auroc_of_1_whatever_the_value_of_the_state():
    right = np.array([0, 1, 0, 1])
    q = np.array([10.0, -3.0, 0.5, 7.0])[:, None] + np.eye(2)[right]
    assert ActionRanking(["a", "b"], right, q, q).auroc() == 1.0
    assert ActionRanking(["a", "b"], 1 - right, q, q).auroc() == 0.0


def test_the_filter_s_report_counts_the_kept_choices_of_each_behaviour(corridor, model):
    policy = BehaviorPolicy({"random": 1, "expert": 1})
    episodes = list(play_episodes(corridor, policy, 10, seed=9))
    whole = report_filter(model, episodes_to_dataset(episodes), beta=0.05, batch_size=3)
    report = whole.by_behavior()
    for name in ("random", "expert"):
        turns = [turn for episode in episodes if episode.behavior == name for turn in episode.turns]
        found = [values_of(model, turn.prompt, turn.images, turn.completion) for turn in turns]
        A = np.array([q[0] - v[0] for q, v, _ in found])  # of the letter; the stop token is no choice
        assert report[name]["turns"] == report[name]["unsure"] == len(turns) > 0
        assert report[name]["kept"] == pytest.approx((A > 0.05).mean())
        assert report[name]["advantage"] == pytest.approx(A.mean(), abs=1e-6)
        assert 0 < report[name]["kept"] < 1


def test_without_a_critic_the_diagnostics_say_so(corridor, backbone):
    model = VLMActorCritic(backbone, Objective(actor_objective="sft", critic_coef=0.0))
    episodes = play_episodes(corridor, BehaviorPolicy("random"), 1)
    with pytest.raises(ValueError, match="has no critic"):
        report_filter(model, episodes_to_dataset(episodes))
    with pytest.raises(ValueError, match="has no critic"):
        rank_actions(model, corridor, BehaviorPolicy("random"), 1)


@pytest.fixture
def episodes(corridor):
    return list(play_episodes(corridor, BehaviorPolicy({"random": 1, "expert": 1}), 12, seed=9))


def test_q_of_the_data_s_tokens_and_of_others_is_read_at_the_same_positions(episodes, model):
    calibration = calibrate_tokens(model, episodes_to_dataset(episodes), num_tokens=5, batch_size=7)
    turns = [turn for episode in episodes for turn in episode.turns]
    found = [values_of(model, turn.prompt, turn.images, turn.completion)[0] for turn in turns]
    assert calibration.taken == pytest.approx(np.concatenate(found), abs=1e-5)
    assert calibration.never.shape == calibration.elsewhere.shape == (len(calibration.taken), 5)

    # With Q(s, a) = a everywhere, the values say which tokens were looked at.
    q_is_the_token = VLMActorCritic(model.backbone, model.objective, num_critics=1)
    with torch.no_grad():
        q_is_the_token.critic.down_bias[:] = torch.arange(len(q_is_the_token.critic.down_bias))
    calibration = calibrate_tokens(q_is_the_token, episodes_to_dataset(episodes), num_tokens=40, batch_size=7)
    ids = [model.backbone.completion_ids(turn.completion) for turn in turns]
    used = set(np.concatenate(ids))
    assert calibration.taken.tolist() == np.concatenate(ids).tolist()
    assert set(calibration.elsewhere.ravel()) == used and not set(calibration.never.ravel()) & used
    assert not (calibration.elsewhere == calibration.taken[:, None]).any()
    valid = np.flatnonzero(model.valid_tokens.numpy())
    assert set(calibration.never.ravel()) <= set(valid)


@pytest.mark.parametrize(
    ("lift", "verdict"), [(1.0, "Q separates"), (-1.0, "Q prefers tokens that never occur"), (0.0, "Q is blind")]
)
def test_the_verdict_on_tokens_says_what_the_critic_does(episodes, model, lift, verdict):
    critic = VLMActorCritic(model.backbone, model.objective, num_critics=1)  # all zero
    used = {
        i for episode in episodes for turn in episode.turns for i in model.backbone.completion_ids(turn.completion)
    }
    with torch.no_grad():
        critic.critic.down_bias[sorted(used)] = lift
    calibration = calibrate_tokens(critic, episodes_to_dataset(episodes))
    assert calibration.verdict().startswith(verdict)
    assert calibration.overlap("never")["auroc"] == (1 + lift) / 2
    assert calibration.overlap("elsewhere")["auroc"] == 0.5


def test_the_overlap_of_tokens_is_what_counting_pairs_gives():
    rng = np.random.default_rng(0)
    taken, never = rng.integers(0, 4, 30).astype(float), rng.integers(0, 4, (30, 3)).astype(float)
    calibration = TokenCalibration(taken, never, never, rng.integers(0, 3, 30))
    wins = [np.sign(taken[i] - never[i, k]) / 2 + 0.5 for i in range(30) for k in range(3)]
    steps = [abs(np.mean(taken <= x) - np.mean(never <= x)) for x in range(4)]
    assert calibration.overlap("never") == pytest.approx({"auroc": np.mean(wins), "ks": max(steps)})
    assert set(calibration.summary()) == {
        f"{a}{b}" for a in ("elsewhere", "never") for b in ("", "_syntax", "_choice", "_stop")
    }


def test_returns_are_discounted_from_each_turn_on_and_stand_beside_the_q_of_its_choice(corridor, model):
    model.objective, before = Objective(gamma=0.5, reward_scale=3.0), model.objective
    try:
        found = calibrate_returns(model, corridor, BehaviorPolicy("expert"), 5, seed=2)
    finally:
        model.objective = before
    turns = [turn for e in play_episodes(corridor, BehaviorPolicy("expert"), 5, seed=2) for turn in e.turns]
    # The expert needs two steps: the reward comes with the second.
    assert found.returns.tolist() == [1.5, 3.0] * 5
    assert found.q == pytest.approx(
        [values_of(model, t.prompt, t.images, t.completion)[0][0] for t in turns], abs=1e-5
    )


def test_the_numbers_of_a_return_calibration_are_right():
    returns = np.array([0.0, 1.0, 2.0, 3.0])
    exact = ReturnCalibration(returns.copy(), returns)
    assert exact.bias()[0] == 0 and exact.rank_correlation() == pytest.approx(1)
    assert "ranks the returns" in exact.verdict() and "about as high" in exact.verdict()
    high = ReturnCalibration(returns + np.array([2.0, 2.1, 2.2, 1.9]), returns)
    assert high.bias()[0] == pytest.approx(2.05) and "too high by 2.05" in high.verdict()
    flat = ReturnCalibration(np.full(4, -5.0), returns)
    assert "is blind to" in flat.verdict() and "too low" in flat.verdict()
    curve = ReturnCalibration(np.arange(20.0), np.arange(20.0) // 10).curve(bins=2)
    assert [(q, mean) for q, mean, _, _ in curve] == [(4.5, 0.0), (14.5, 1.0)]


def test_the_filter_s_report_can_be_read(episodes, model):
    report = report_filter(model, episodes_to_dataset(episodes), beta=0.0)
    assert sum(group["turns"] for group in report.by_return().values()) == sum(e.length for e in episodes)
    texts = [turn.completion for episode in episodes for turn in episode.turns]
    assert {name: group["turns"] for name, group in report.by_text().items()} == {
        t: texts.count(t) for t in set(texts)
    }
    kept = report.examples(3)["kept"]
    best = sorted(report.advantage[report.decisions & report.kept])[::-1]
    assert [A for _, _, A in kept] == best[:3] and all(texts[turn] == text for turn, text, _ in kept)
    assert all(A <= 0 for _, _, A in report.examples()["dropped"])
    table = report.table()
    assert "| expert |" in table and "| stop |" in table and "Dropped:" in table


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_calibration_is_drawn(episodes, corridor, model, tmp_path, suffix):
    path = tmp_path / "figures" / f"critic.{suffix}"
    tokens = calibrate_tokens(model, episodes_to_dataset(episodes))
    plot_calibration(path, tokens, calibrate_returns(model, corridor, BehaviorPolicy("random"), 5))
    assert path.stat().st_size > 10_000
    plot_calibration(path, tokens)
