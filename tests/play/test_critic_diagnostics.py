# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the diagnostics say of a critic is what one finds by looking at it state by state and token by token."""

import numpy as np
import pytest
import torch

from trl_vlmq import BehaviorPolicy, episodes_to_dataset, play_episodes
from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.diagnostics import ActionRanking, filter_by_behavior, rank_actions
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
    """The corridor's actions are one letter and the stop token; the letter is the choice."""
    ranking = rank_actions(model, corridor, BehaviorPolicy("random"), 6, seed=5, batch_size=4)
    turns = [
        turn for e in play_episodes(corridor, BehaviorPolicy("random"), 6, seed=5, num_envs=1) for turn in e.turns
    ]
    assert ranking.actions == ["d", "e"] and len(ranking.q) == len(turns)
    expected = []
    for turn in turns:
        goal, position = (int(word.strip(",.")) for word in turn.prompt[0]["content"][-1]["text"].split()[1::2])
        found = [values_of(model, turn.prompt, turn.images, text) for text in ranking.actions]
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
    report = filter_by_behavior(model, episodes_to_dataset(episodes), beta=0.05, batch_size=3)
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
        filter_by_behavior(model, episodes_to_dataset(episodes))
    with pytest.raises(ValueError, match="has no critic"):
        rank_actions(model, corridor, BehaviorPolicy("random"), 1)
