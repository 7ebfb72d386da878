# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What is drawn of an agent's and a critic's view of Blackjack hands belongs to those hands."""

import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import load_backbone
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.envs.gym_cards.blackjack_oracle import STATES, best_policy, evaluate_policy
from trl_vlmq.envs.gym_cards.blackjack_rules import hand_total
from trl_vlmq.losses import Objective


sys.path.append(str(Path(__file__).parents[2] / "examples"))
from blackjack_chart import ask_about_hands, deal, exact_scores, plot_strategy  # noqa: E402
from watch_blackjack import BlackjackCritic  # noqa: E402


ENV = {"env_kwargs": {"image_size": 112, "symbolic": True}, "prompt_builder": PromptBuilder()}


@pytest.fixture(scope="module")
def critic() -> BlackjackCritic:
    return BlackjackCritic(ENV, every_steps=10, num_games=40)


def test_each_hand_s_exact_difference_is_that_of_the_hand_in_its_prompt(critic):
    for (messages, images), (total, soft, _), exact in zip(critic.prompts, critic.states, critic.exact, strict=True):
        text = messages[0]["content"][-1]["text"]
        assert f"{'soft ' if soft else ''}{total}." in text and len(images) == 1
        # By far: hitting a hard 20 is bad, hitting 11 good, whatever the dealer shows.
        if total >= 19 and not soft:
            assert exact < -0.5
        if total <= 11:
            assert exact > 0
    assert len({state for state in critic.states}) > 20


def test_the_sign_of_the_exact_difference_is_the_best_policy(critic):
    best = best_policy("return")
    assert [exact > 0 for exact in critic.exact] == [best[state] for state in critic.states]


def test_a_look_is_q_of_hitting_minus_q_of_standing_in_rewards(critic, tmp_path):
    """With Q(s, a) = a everywhere, the difference is that of two token ids."""
    backbone = load_backbone("tiny-cards")
    model = VLMActorCritic(backbone, Objective(), critic_hidden_size=4, streamed_head=False)
    model.critic.forward = lambda states: torch.arange(backbone.n_logits).float().expand(1, *states.shape[:-1], -1)
    hit, stand = (backbone.completion_ids(f'{{"action": "{word}"}}') for word in ("hit", "stand"))
    first = next(i for i, (a, b) in enumerate(zip(hit, stand, strict=False)) if a != b)
    assert len(hit) == len(stand) == first + 3, "each word is one token, then quote and stop"
    state = SimpleNamespace(global_step=10, max_steps=100, is_world_process_zero=True)
    critic.on_step_end(SimpleNamespace(reward_scale=2.0), state, None, model=model)
    critic.on_step_end(
        SimpleNamespace(reward_scale=2.0), SimpleNamespace(**vars(state) | {"global_step": 11}), None, model=model
    )
    ((step, found),) = critic.looks
    assert step == 10
    np.testing.assert_allclose(found, (hit[first] - stand[first]) / 2)
    critic.plot(tmp_path / "hands.png")
    assert (tmp_path / "hands.png").stat().st_size > 10_000


def test_the_chart_deals_every_hand_as_asked():
    rng = np.random.default_rng(0)
    for state in STATES:
        player, dealer = deal(state, rng)
        assert (*hand_total([card.value for card in player]), dealer[0].value) == state
        assert len(player) >= 2 and len(dealer) == 2
        assert hand_total([card.value for card in player[:-1]])[0] < 21, "nobody draws on after 21"


def test_the_chart_s_exact_scores_are_those_of_the_strategy():
    best, mixed = best_policy("return"), np.array([0.9, 0.9, 0.2, 0.2])
    scores = exact_scores({state: np.full(4, 0.8 if best[state] else 0.1) for state in STATES})
    assert scores["greedy"] == evaluate_policy(lambda state: float(best[state]))
    assert scores["sampled"] == evaluate_policy(lambda state: 0.8 if best[state] else 0.1)
    scores = exact_scores({state: mixed for state in STATES})
    assert scores["greedy"] == evaluate_policy(lambda state: 0.5)
    assert scores["sampled"] == pytest.approx(evaluate_policy(lambda state: 0.55))


def test_the_chart_reads_the_policy_s_own_probabilities(tmp_path):
    """Of one hand, against a forward pass without padding or batching."""
    model = VLMActorCritic(load_backbone("tiny-cards"), Objective(), critic_hidden_size=1).eval()
    hits = ask_about_hands(model, {"image_size": 112, "list_actions": False}, PromptBuilder(), pictures=1, seed=5)
    assert list(hits) == list(STATES)
    rng = np.random.default_rng(5)
    for state in STATES[:3]:
        player, dealer = deal(state, rng)
        env = gymnasium.make("trl_vlmq/Blackjack-v0", image_size=112, list_actions=False).unwrapped
        observation, _ = env.reset(seed=5, options={"player": player, "dealer": dealer})
        logp = []
        for action in ("hit", "stand"):
            ids = model.backbone.completion_ids(env.write(action))
            inputs = model.backbone.collate([model.backbone.encode(*PromptBuilder().build(observation))], [ids])
            with torch.no_grad():
                _, logits = model.backbone.forward(inputs, keep=len(ids))
            logits = logits[0].double().masked_fill(~model.backbone.valid_token_mask(), float("-inf"))
            logp.append(logits.log_softmax(-1)[range(len(ids)), ids].sum().item())
        assert hits[state] == pytest.approx(1 / (1 + np.exp(logp[1] - logp[0])), abs=1e-4)
    plot_strategy(tmp_path / "strategy.svg", hits, "untrained")
    assert "<svg" in (tmp_path / "strategy.svg").read_text()
