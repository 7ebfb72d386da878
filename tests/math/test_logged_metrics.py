# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What is logged is what it says: against values computed row by row, from the formulas.

At a learning rate of 0 only the filter's threshold moves, so that the values of every row are known for every step.
"""

import math

import numpy as np
import pytest
import torch

from trl_vlmq import AFSFTTrainer
from trl_vlmq.losses import token_uniforms
from trl_vlmq.roles import TokenRole


ENDINGS = [(3, "terminated"), (5, "truncated"), (2, "both"), (6, "terminated"), (4, "truncated")]  # 20 turns
HELD_OUT = [(2, "terminated"), (1, "truncated"), (4, "terminated"), (3, "truncated"), (1, "terminated")]  # 11 turns
STEPS, WINDOW = 8, 2
CONFIDENT = 0.004  # of an untrained policy over 261 tokens: some are, most are not
SETTINGS = {
    "max_steps": STEPS,
    "logging_steps": WINDOW,
    "learning_rate": 0.0,
    "target_tau": 0.0,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "segment_length": 2,
    "gamma": 0.9,
    "token_gamma": 0.95,
    "reward_scale": 2.0,
    "critic_coef": 1.5,
    "actor_coef": 0.5,
    "num_critics": 2,
    "critic_hidden_size": 8,
    "filter_warmup_ratio": 0.25,
    "filter_ramp_ratio": 0.4,
    "filter_keep_fraction": 0.0,
    "filter_keep_confident": CONFIDENT,
}


@pytest.fixture(scope="module")
def make_trainer(slow, lively_vlm, tiny_vlm, trainer_args):
    def make(**kwargs) -> AFSFTTrainer:
        torch.manual_seed(0)
        trainer = AFSFTTrainer(
            lively_vlm(),
            trainer_args(**{**SETTINGS, **kwargs}),
            train_dataset=slow.make_dataset(ENDINGS, seed=21),
            eval_dataset=slow.make_dataset(HELD_OUT, seed=22),
            processing_class=tiny_vlm[1],
        )
        slow.randomise_critics(trainer.model)
        return trainer

    return make


def role_of(character_index: int, text: str) -> TokenRole:
    """Of the fixture's completions, tokens of one character each, by where the value of its JSON stands."""
    if character_index == len(text):
        return TokenRole.STOP
    values = {
        '{"action": "go"}': "go",
        '{"action": "turn left"}': "turn left",
        '{"n": 3}': "3",
        '{"action": "stop"}': "stop",
    }
    if text not in values:
        return TokenRole.CHOICE
    start = text.rindex(values[text])
    return TokenRole.CHOICE if start <= character_index < start + len(values[text]) else TokenRole.SYNTAX


def token_table(slow, trainer: AFSFTTrainer, endings, seed: int) -> list[dict[str, np.ndarray]]:
    """For each row of the dataset its tokens' values, one array each."""
    model, objective = trainer.model, trainer.model.objective
    reference = slow.Reference(model)
    table = []
    for episode in slow.make_episodes(endings, seed=seed):
        for index, turn in enumerate(episode.turns):
            values = reference.turn_values(turn)
            y = np.array(slow.targets(objective, values, turn.reward, reference.next_value(episode, index)))
            baseline = values.v if objective.advantage_baseline == "online" else values.v_target
            table.append(
                {
                    "row": np.full(len(y), len(table)),
                    "position": np.arange(len(y)),
                    "logp": values.logp,
                    "entropy": values.entropy,
                    "q": values.q.mean(0),
                    "v": baseline,
                    "advantage": values.q.mean(0) - baseline,
                    "target": y,
                    "critic_error": ((values.q - y) ** 2).mean(0),
                    "confident": np.exp(values.logp) > CONFIDENT,
                    "role": np.array([role_of(i, turn.completion) for i in range(len(y))]),
                }
            )
    return table


def join(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def written_out_metrics(tokens: dict[str, np.ndarray]) -> dict[str, float]:
    """The metrics' definitions; `tokens` also holds `kept` and `weight`."""
    error = tokens["q"] - tokens["target"]
    metrics = {
        "nll": -tokens["logp"].mean(),
        "actor_loss": -(tokens["weight"] * tokens["logp"]).sum() / len(error),
        "entropy": tokens["entropy"].mean(),
        "critic_loss": tokens["critic_error"].mean(),
        "td_error": np.abs(error).mean(),
        "explained_variance": 1 - np.var(error) / np.var(tokens["target"]),
        "kept": tokens["kept"].mean(),
        "confident": tokens["confident"].mean(),
    }
    unsure_choice = (tokens["role"] == TokenRole.CHOICE) & ~tokens["confident"]
    metrics["kept_unsure_choice"] = tokens["kept"][unsure_choice].mean()
    for role in TokenRole:
        metrics[f"kept_{role.name.lower()}"] = tokens["kept"][tokens["role"] == role].mean()
    distributions = {name: tokens[name] for name in ("q", "v", "advantage")}
    distributions["advantage_choice"] = tokens["advantage"][unsure_choice]
    for name, values in distributions.items():
        metrics |= {
            f"{name}_mean": values.mean(),
            f"{name}_std": values.std(),
            f"{name}_p10": np.quantile(values, 0.1),
            f"{name}_p50": np.quantile(values, 0.5),
            f"{name}_p90": np.quantile(values, 0.9),
        }
    return metrics


def filter_steps(schedule, tables: list[dict[str, np.ndarray]]) -> list[tuple[float, float, float]]:
    """(beta, kept share, kept share of unsure tokens) in force at each step: the schedule's rules written out."""
    beta, quantile, share, unsure_share, history = -math.inf, None, 1.0, 1.0, []
    for step, tokens in enumerate(tables):
        history.append((beta, share, unsure_share))
        kept = (tokens["advantage"] > beta) | tokens["confident"]
        progress = (step + 1) / STEPS
        if progress < schedule.warmup_ratio:
            continue
        ramped = min(1.0, (progress - schedule.warmup_ratio) / schedule.ramp_ratio)
        guaranteed = 1 - ramped * (1 - schedule.keep_fraction)
        now = np.quantile(tokens["advantage"][~tokens["confident"]], 1 - guaranteed)
        quantile = now if quantile is None else 0.9 * quantile + 0.1 * now
        beta = schedule.end if ramped == 1.0 else min(schedule.end, quantile)
        share = 0.9 * share + 0.1 * kept.mean()
        unsure_share = 0.9 * unsure_share + 0.1 * kept[~tokens["confident"]].mean()
    return history + [(beta, share, unsure_share)]


@pytest.mark.parametrize(
    ("actor_objective", "actor_normalizer", "advantage_baseline"),
    [
        ("afsft", "kept", "online"),
        ("afsft", "tokens", "target"),
        ("random_filter", "kept", "online"),
        ("sft", "tokens", "online"),
    ],
)
def test_training_logs_equal_the_definitions(
    slow, make_trainer, actor_objective, actor_normalizer, advantage_baseline
):
    trainer = make_trainer(
        actor_objective=actor_objective, actor_normalizer=actor_normalizer, advantage_baseline=advantage_baseline
    )
    batches, collate = [], trainer.data_collator
    trainer.data_collator = lambda segments: (
        batches.append([r["row"] for s in segments for r in s.rows]),
        collate(segments),
    )[1]
    table = token_table(slow, trainer, ENDINGS, seed=21)
    trainer.train()

    # Eleven segments are six batches, three steps an epoch.
    steps = [join([table[row] for row in batches[2 * i] + batches[2 * i + 1]]) for i in range(STEPS)]
    assert 0.05 < join(steps)["confident"].mean() < 0.5
    history = filter_steps(trainer.filter_schedule, steps)
    losses = []
    for number, (tokens, (beta, share, unsure_share)) in enumerate(zip(steps, history, strict=False)):
        tokens["kept"] = (tokens["advantage"] > beta) | tokens["confident"]
        tokens["weight"] = tokens["kept"].astype(float)
        if actor_objective == "sft":
            tokens["weight"] = np.ones(len(tokens["kept"]))
        if actor_objective == "random_filter":
            drawn = [
                token_uniforms(torch.tensor([row]), position + 1, number, 42)[0, position].item()
                for row, position in zip(tokens["row"].tolist(), tokens["position"].tolist(), strict=True)
            ]
            tokens["weight"] = (np.array(drawn) < share).astype(float)
        count = len(tokens["logp"])
        actor = -(tokens["weight"] * tokens["logp"]).sum() / count
        if actor_normalizer == "kept":
            actor /= unsure_share if actor_objective == "afsft" else share
        losses.append(0.5 * actor + 1.5 * tokens["critic_error"].sum() / count)

    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == STEPS // WINDOW
    for i, entry in enumerate(logs):
        logged = slice(i * WINDOW, (i + 1) * WINDOW)
        expected = written_out_metrics(join(steps[logged]))
        for name, value in expected.items():
            assert entry[name] == pytest.approx(value, abs=2e-5), (name, i)
        beta, share, _ = history[(i + 1) * WINDOW]
        assert entry["beta"] == pytest.approx(beta, abs=1e-5)
        assert entry["kept_share"] == pytest.approx(share, abs=1e-6)
        assert entry["loss"] == pytest.approx(np.mean(losses[logged]), rel=1e-4)
        assert entry["action_tokens_per_second"] > 0
    assert logs[0]["kept"] == 1.0 and logs[-1]["kept"] < 0.8, "the filter is off, then on"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
@pytest.mark.parametrize("actor_objective", ["afsft", "epg"])
def test_held_out_metrics_are_over_all_tokens_whatever_the_batch_size(slow, make_trainer, batch_size, actor_objective):
    trainer = make_trainer(per_device_eval_batch_size=batch_size, actor_objective=actor_objective)
    trainer.model.filter_state.beta, trainer.model.filter_state.kept_unsure_share = 0.1, 0.8
    tokens = join(token_table(slow, trainer, HELD_OUT, seed=22))
    tokens["kept"] = (tokens["advantage"] > 0.1) | tokens["confident"]
    tokens["weight"] = tokens["kept"].astype(float)
    metrics = trainer.evaluate()
    for name, value in written_out_metrics(tokens).items():
        if (name, actor_objective) != ("actor_loss", "epg"):
            assert metrics[f"eval_{name}"] == pytest.approx(value, abs=2e-5), name
    actor = -tokens["v"].mean() if actor_objective == "epg" else -(tokens["weight"] * tokens["logp"]).mean() / 0.8
    assert metrics["eval_loss"] == pytest.approx(0.5 * actor + 1.5 * tokens["critic_error"].mean(), abs=2e-5)


def test_evaluation_between_steps_leaves_training_alone(make_trainer):
    """Neither its tokens in the training metrics, nor a step of the filter."""
    plain, interleaved = make_trainer(), make_trainer(eval_strategy="steps", eval_steps=1)
    plain.train()
    interleaved.train()
    logs = [[entry for entry in t.state.log_history if "loss" in entry] for t in (plain, interleaved)]
    for one, other in zip(*logs, strict=True):
        for name in one.keys() - {"action_tokens_per_second", "loss_scale"}:
            assert one[name] == other[name], name
    assert plain.model.filter_state == interleaved.model.filter_state
    evaluations = [entry for entry in interleaved.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == STEPS
    assert len({entry["eval_nll"] for entry in evaluations}) == 1, "nothing was learned at a rate of 0"


def test_sft_without_a_critic_logs_no_values(make_trainer):
    trainer = make_trainer(actor_objective="sft", critic_coef=0.0)
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["loss"] == pytest.approx(0.5 * entry["nll"], rel=0.2)
    assert entry["actor_loss"] == pytest.approx(entry["nll"], rel=1e-6)
    assert not {"td_error", "q_mean", "beta", "kept", "explained_variance"} & entry.keys()
