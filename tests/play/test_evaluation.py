# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The numbers of an evaluation are those of its episodes, whoever computes them."""

import numpy as np
import pytest

from trl_vlmq import BehaviorPolicy, EvaluationResult, VLMPolicy, evaluate_policy, play_episodes
from trl_vlmq.metrics import load_metric


@pytest.fixture(params=["greedy", "sampled", "behaviours"])
def policy(request, backbone):
    return {
        "greedy": VLMPolicy(backbone, max_new_tokens=3),
        "sampled": VLMPolicy(backbone, temperature=0.7, max_new_tokens=3),
        "behaviours": BehaviorPolicy({"random": 1, "expert": 1}),
    }[request.param]


def assert_equal(a: EvaluationResult, b: EvaluationResult) -> None:
    for name, values in vars(a).items():
        np.testing.assert_array_equal(values, getattr(b, name), strict=True)


def test_an_evaluation_is_reproducible_and_independent_of_the_number_of_environments(corridor, policy):
    results = [evaluate_policy(corridor, policy, 16, seed=7, num_envs=n, progress=None) for n in (1, 3, 16, 3)]
    results.append(evaluate_policy(corridor, policy, 16, seed=7, num_envs=3, step_timeout=60.0, progress=None))
    for result in results[1:]:
        assert_equal(result, results[0])
    assert len(results[0].success) == 16 and len(set(results[0].lengths.tolist())) > 1


def test_another_seed_gives_another_evaluation(corridor):
    policy = BehaviorPolicy("random")
    results = [evaluate_policy(corridor, policy, 40, seed=seed, progress=None) for seed in (1, 2)]
    assert (results[0].lengths != results[1].lengths).any()


def test_the_result_is_that_of_the_episodes(corridor, backbone):
    policy = VLMPolicy(backbone, temperature=1.0, max_new_tokens=3)
    episodes = list(play_episodes(corridor, policy, 20, seed=7))
    result = EvaluationResult.of(episodes)
    assert_equal(result, evaluate_policy(corridor, policy, 20, seed=7, progress=None))
    assert result.success.tolist() == [e.turns[-1].terminated for e in episodes]
    assert result.returns.tolist() == [sum(turn.reward for turn in e.turns) for e in episodes]
    assert result.lengths.tolist() == [len(e.turns) for e in episodes]
    valid = [turn.action_is_valid for e in episodes for turn in e.turns]
    assert result.syntax_accuracy == pytest.approx(sum(valid) / len(valid)) and 0 < sum(valid) < len(valid)
    assert 0 < result.success_rate < 1


def test_the_metrics_of_evaluate_agree(corridor):
    policy = BehaviorPolicy({"random": 2, "expert": 1})
    episodes = list(play_episodes(corridor, policy, 30, seed=7))
    summary = EvaluationResult.of(episodes).summary()
    success = load_metric("success_rate").compute(predictions=[e.success for e in episodes])
    assert (success["success_rate"], success["low"], success["high"], success["episodes"]) == (
        summary["success_rate"],
        summary["success_low"],
        summary["success_high"],
        summary["episodes"],
    )
    returns = load_metric("episode_return").compute(predictions=[e.total_reward for e in episodes])
    assert (returns["episode_return"], returns["low"], returns["high"]) == (
        summary["mean_return"],
        summary["mean_return_low"],
        summary["mean_return_high"],
    )
    valid = [turn.action_is_valid for e in episodes for turn in e.turns]
    syntax = load_metric("action_syntax_accuracy").compute(predictions=valid)
    assert syntax["action_syntax_accuracy"] == summary["syntax_accuracy"] == 1.0
    lengths = load_metric("episode_length").compute(predictions=[e.length for e in episodes])
    assert lengths["episode_length"] == summary["mean_length"]


def test_an_expert_succeeds_and_a_policy_that_cannot_write_does_not(corridor, backbone):
    expert = evaluate_policy(corridor, BehaviorPolicy("expert"), 10, progress=None).summary()
    assert (expert["success_rate"], expert["mean_return"], expert["mean_length"]) == (1.0, 1.0, 2.0)
    assert expert["success_low"] < 1.0 == expert["success_high"], "ten successes are no certainty"

    def silence(module, args, logits):
        logits[..., backbone.stop_token_id] += 1000
        return logits

    handle = backbone.model.get_output_embeddings().register_forward_hook(silence)
    silent = evaluate_policy(corridor, VLMPolicy(backbone), 10, progress=None)
    handle.remove()
    assert silent.syntax_accuracy == 0.0 == silent.success_rate and set(silent.lengths) == {6}


def test_an_evaluation_without_episodes_is_refused():
    with pytest.raises(ValueError, match="no episodes"):
        EvaluationResult.of([])
