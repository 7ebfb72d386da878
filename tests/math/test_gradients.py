# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Every objective's loss and gradient, in float64, against finite differences of the formula written out here.

The formula holds fixed what the design says carries no gradient: weights of the actor, V, targets, and the critic under
"epg". It goes from the model's raw states and logits to a number by loops over tokens.
"""

import math

import pytest
import torch
from torch import nn

from trl_vlmq.collator import TokenTDCollator
from trl_vlmq.columns import prepare_episodes
from trl_vlmq.losses import ACTOR_OBJECTIVES, Objective, token_uniforms
from trl_vlmq.replay import ReplayBuffer


# The share is exact in float32, in which the normaliser is computed.
KEPT_SHARE, KEPT_UNSURE_SHARE, STEP = 0.625, 0.375, 3


def to_float64(model: nn.Module) -> nn.Module:
    """float64 throughout: Llama's norm would compute in float32."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    return model.double()


@pytest.fixture(scope="module")
def build(slow, make_actor_critic):
    """An actor-critic in float64 and a batch with images, segments, both endings and a bootstrap row."""

    def build(objective: Objective, **kwargs):
        model = to_float64(make_actor_critic(objective, critic_hidden_size=8, **kwargs))
        slow.randomise_critics(model)
        dataset = slow.make_dataset([(1, "truncated"), (2, "terminated"), (2, "truncated")], seed=5)
        segments = ReplayBuffer(prepare_episodes(dataset), segment_length=2)
        batch = TokenTDCollator(model.backbone, objective.needs_critic)(list(segments))
        for part in ("inputs", "bootstrap_inputs"):
            for name, tensor in batch.get(part, {}).items():
                batch[part][name] = tensor.double() if tensor.is_floating_point() else tensor
        model.filter_state.kept_share, model.filter_state.kept_unsure_share = KEPT_SHARE, KEPT_UNSURE_SHARE
        model.filter_state.step = STEP
        return model, batch

    return build


def token_quantities(model, batch, frozen_states: list[torch.Tensor] | None = None) -> list[dict]:
    """For each action token: its row and action, state, log pi [V] and Q of each critic [C, V]; plain formulas."""
    states, logits = model.backbone.forward(batch["inputs"], keep=batch["labels"].shape[1])
    invalid = [model.backbone.processor.image_token_id]
    tokens = []
    for b, row in enumerate(batch["labels"].tolist()):
        for i, action in enumerate(row):
            if action == -100:
                continue
            z = logits[b, i].clone()
            if model.mask_invalid_tokens:
                z[invalid] = -math.inf
            state = states[b, i] if frozen_states is None else frozen_states[len(tokens)]
            q = None
            if model.critic is not None:
                names = [name for name, _ in model.critic.named_parameters()]
                heads = zip(*(model.critic.per_head(name) for name in names), strict=True)
                q = torch.stack([down @ nn.functional.silu(up @ state + ub) + db for up, ub, down, db in heads])
            tokens.append(
                {"b": b, "i": i, "action": action, "state": states[b, i], "log_pi": z - z.logsumexp(0), "q": q}
            )
    return tokens


def frozen_parts(model, batch, objective: Objective, baseline: list[float], target: list[float]) -> dict:
    """Weights, targets and Q of all tokens at the present parameters, as constants."""
    with torch.no_grad():
        tokens = token_quantities(model, batch)
    uniforms = token_uniforms(batch["row"], batch["labels"].shape[1], STEP, objective.seed)
    weights = []
    for token, v in zip(tokens, baseline, strict=True):
        confident = False
        if objective.filter_keep_confident is not None:
            confident = token["log_pi"][token["action"]].exp().item() > objective.filter_keep_confident
        advantage = None if token["q"] is None else token["q"].mean(0)[token["action"]].item() - v
        match objective.actor_objective:
            case "sft":
                weights.append(1.0)
            case "random_filter":
                weights.append(float(uniforms[token["b"], token["i"]] < KEPT_SHARE))
            case "awr":
                weights.append(min(math.exp(advantage / objective.awr_temperature), objective.awr_max_weight))
            case _:
                weights.append(float(advantage > model.filter_state.beta or confident))
    return {
        "weights": weights,
        "target": target,
        "q": [token["q"] for token in tokens],
        "states": [token["state"] for token in tokens],
    }


def written_out_loss(model, batch, objective: Objective, fixed: dict) -> torch.Tensor:
    tokens = token_quantities(model, batch, None if model.critic_trunk_gradient else fixed["states"])
    actor, critic = 0.0, 0.0
    for token, weight, y, q_fixed in zip(tokens, fixed["weights"], fixed["target"], fixed["q"], strict=True):
        if objective.actor_objective == "epg":
            pi = token["log_pi"].exp()
            actor = actor - pi.dot(q_fixed.mean(0))
        elif weight:
            actor = actor - weight * token["log_pi"][token["action"]]
        if token["q"] is not None:
            critic = critic + sum((q[token["action"]] - y) ** 2 for q in token["q"]) / len(token["q"])
    actor, critic = actor / len(tokens), critic / len(tokens)
    if objective.actor_normalizer == "kept" and objective.actor_objective in ("afsft", "random_filter"):
        actor = actor / (KEPT_UNSURE_SHARE if objective.actor_objective == "afsft" else KEPT_SHARE)
    return objective.actor_coef * actor + objective.critic_coef * critic


def parts_of(model) -> dict[str, list[nn.Parameter]]:
    names = {
        "vision tower": "vision_tower",
        "projector": "projector",
        "embedding": "embed_tokens",
        "layers": "layers.",
        "head": "lm_head",
        "critic hidden": "critic.up",
        "critic output": "critic.down",
    }
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = next((part for part, pattern in names.items() if pattern in name), "layers")
        found.setdefault(part, []).append(parameter)
    return found


SETTINGS = [
    {"actor_normalizer": "tokens", "advantage_baseline": "online", "td_horizon": "token", "num_critics": 1},
    {"actor_normalizer": "kept", "advantage_baseline": "target", "td_horizon": "turn", "num_critics": 2},
    {"actor_normalizer": "kept", "advantage_baseline": "online", "td_horizon": "token", "num_critics": 2},
    {"actor_normalizer": "tokens", "advantage_baseline": "target", "td_horizon": "tree_backup", "num_critics": 1},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(str(v) for v in s.values()))
@pytest.mark.parametrize("trunk", [True, False], ids=["joint", "detached"])
@pytest.mark.parametrize("actor_objective", [*ACTOR_OBJECTIVES, "sft without critic"])
def test_loss_and_gradient_are_those_of_the_formula(slow, build, actor_objective, trunk, setting):
    setting = dict(setting)
    num_critics = setting.pop("num_critics")
    plain_sft = actor_objective == "sft without critic"
    objective = Objective(
        actor_objective=actor_objective.split()[0],
        actor_coef=0.7,
        critic_coef=0.0 if plain_sft else 1.3,
        gamma=0.9,
        token_gamma=0.95,
        reward_scale=2.0,
        awr_temperature=0.8,
        awr_max_weight=1.5,
        filter_keep_confident=0.7,
        **setting,
    )
    model, batch = build(objective, num_critics=num_critics, critic_trunk_gradient=trunk)
    assert (model.critic is None) == plain_sft
    with torch.no_grad():
        values, first_v = model.token_values(batch["inputs"], batch["labels"])
        mask = values.mask
        baseline = (values.v if objective.advantage_baseline == "online" else values.v_target)[mask].tolist()
        if plain_sft:
            target = [0.0] * len(baseline)
        else:
            bootstrap = model.state_values(batch["bootstrap_inputs"])
            following = torch.cat([first_v, bootstrap, first_v.new_zeros(1)])[batch["next_index"]].tolist()
            target = [
                y
                for b, n in enumerate(mask.sum(1).tolist())
                for y in slow.targets(objective, slow.row(values, b, n), batch["reward"][b].item(), following[b])
            ]
            advantages = sorted((values.q.mean(0)[mask] - torch.tensor(baseline)).tolist())
            # Half-way between two tokens, so that rounding moves none across.
            model.filter_state.beta = sum(advantages[len(advantages) // 2 :][:2]) / 2

    fixed = frozen_parts(model, batch, objective, baseline, target)
    if objective.actor_objective in ("afsft", "random_filter"):
        assert 0.2 < sum(fixed["weights"]) / len(fixed["weights"]) < 0.9, "the filter must be at work"
    if objective.actor_objective == "awr":
        assert 0 < sum(weight == 1.5 for weight in fixed["weights"]) < len(fixed["weights"]), (
            "some weights at the limit"
        )

    model.zero_grad()
    loss = model(**batch)["loss"]
    loss.backward()
    with torch.no_grad():
        assert loss.item() == pytest.approx(written_out_loss(model, batch, objective, fixed).item(), rel=1e-12)

    generator = torch.Generator().manual_seed(1)
    checked = set()
    for part, parameters in parts_of(model).items():
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        assert norm > 1e-6, f"{part} got no gradient"
        # Along the gradient, so that the derivative is not small, and across it, so that nothing is missed.
        directions = [torch.randn(g.shape, generator=generator, dtype=g.dtype) for g in gradients]
        length = torch.stack([d.norm() for d in directions]).norm()
        directions = [d / length + g / norm for d, g in zip(directions, gradients, strict=True)]
        slope = sum((d * g).sum() for d, g in zip(directions, gradients, strict=True)).item()

        def moved(distance: float, parameters=parameters, directions=directions) -> float:
            with torch.no_grad():
                for p, d in zip(parameters, directions, strict=True):
                    p.add_(distance * d)
                value = written_out_loss(model, batch, objective, fixed).item()
                for p, d in zip(parameters, directions, strict=True):
                    p.sub_(distance * d)
            return value

        h = 1e-5
        difference = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
        assert difference == pytest.approx(slope, rel=1e-6), part
        checked.add(part)
    assert checked >= {"vision tower", "projector", "embedding", "layers", "head"}
    assert plain_sft or checked >= {"critic hidden", "critic output"}
