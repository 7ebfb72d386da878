# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the proofs compare the package with: slow computations of the same numbers, one row and one token at a time.

Nothing here calls the package's losses, critics or collator. Sums are float64 numpy or plain Python, models see one
unpadded prompt at a time, and states are read from `output_hidden_states` instead of a hook on the language head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from trl_vlmq import AFSFTConfig
from trl_vlmq.actor_critic import VLMActorCritic
from trl_vlmq.backbones import LanguageHead, make_backbone
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset
from trl_vlmq.losses import Objective


COMPLETIONS = ('{"action": "go"}', '{"action": "turn left"}', "", "no json", '{"n": 3}', '{"action": "stop"}')


@dataclass
class RowValues:
    """Reference values of one turn of n action tokens, float64."""

    logp: np.ndarray  # [n]
    entropy: np.ndarray  # [n]
    q: np.ndarray  # [C, n]
    v: np.ndarray  # [n]
    v_target: np.ndarray  # [n]
    q_target: np.ndarray  # [n]


class Reference:
    """Values of single rows of an actor-critic over the tiny VLM, by its processor and its model alone."""

    def __init__(self, actor_critic: VLMActorCritic):
        self.actor_critic = actor_critic
        self.processor = actor_critic.backbone.processor

    @torch.no_grad()
    def states_and_logits(self, prompt: list[dict], images: list, action: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """States [n, d] and logits [n, V] of the positions that predict the n action tokens."""
        model = self.actor_critic.model
        text = self.processor.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        features = self.processor(text=[text], images=[images] if images else None, return_tensors="pt")
        prompt_length = features["input_ids"].shape[1]
        ids = torch.cat([features["input_ids"], torch.tensor([action], dtype=torch.long)], dim=1)
        pixels = {"pixel_values": features["pixel_values"]} if images else {}
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **pixels)
        predicting = slice(prompt_length - 1, prompt_length - 1 + len(action))
        return (
            output.hidden_states[-1][0, predicting].double().numpy(),
            output.logits[0, predicting].double().numpy(),
        )

    def policy(self, logits: np.ndarray) -> np.ndarray:
        """log pi [n, V]; image tokens and padded rows of the head have probability 0 (unless nothing is masked)."""
        logits = logits.copy()
        if self.actor_critic.mask_invalid_tokens:
            logits[:, self.processor.image_token_id] = -np.inf
            logits[:, len(self.processor.tokenizer) :] = -np.inf
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    @staticmethod
    def q_values(critic: nn.Module, states: np.ndarray) -> np.ndarray:
        """Q [C, n, V] of a critic or a target critic."""
        up, up_bias, down, down_bias = (
            critic.per_head(name).detach().double().numpy()
            for name in ("up_weight", "up_bias", "down_weight", "down_bias")
        )
        values = []
        for c in range(len(up)):
            hidden = states @ up[c].T + up_bias[c]
            values.append((hidden / (1 + np.exp(-hidden))) @ down[c].T + down_bias[c])
        return np.stack(values)

    def values(self, prompt: list[dict], images: list, action: list[int]) -> RowValues:
        """All values of one turn."""
        states, logits = self.states_and_logits(prompt, images, action)
        log_pi = self.policy(logits)
        pi = np.exp(log_pi)
        taken = np.arange(len(action)), action
        entropy = -np.where(pi > 0, pi * np.where(pi > 0, log_pi, 0), 0).sum(-1)
        if self.actor_critic.critic is None:
            zero = np.zeros(len(action))
            return RowValues(log_pi[taken], entropy, zero[None], zero, zero, zero)
        q = self.q_values(self.actor_critic.critic, states)
        q_target = self.q_values(self.actor_critic.target_critic, states)
        return RowValues(
            logp=log_pi[taken],
            entropy=entropy,
            q=np.stack([head[taken] for head in q]),
            v=(pi * q.mean(0)).sum(-1),
            v_target=(pi * q_target.mean(0)).sum(-1),
            q_target=q_target.mean(0)[taken],
        )

    def first_value(self, prompt: list[dict], images: list) -> float:
        """Vbar of the state after a prompt."""
        states, logits = self.states_and_logits(prompt, images, [0])
        q_target = self.q_values(self.actor_critic.target_critic, states).mean(0)
        return float((np.exp(self.policy(logits)) * q_target).sum())

    def action(self, turn: Turn) -> list[int]:
        """The tokens of a turn's action."""
        if turn.completion_ids is not None:
            return list(turn.completion_ids)
        tokenizer = self.processor.tokenizer
        return [*tokenizer(turn.completion)["input_ids"], tokenizer.eos_token_id]

    def turn_values(self, turn: Turn) -> RowValues:
        return self.values(turn.prompt, turn.images, self.action(turn))

    def next_value(self, episode: Episode, index: int) -> float:
        """Vbar of the state that follows a turn: 0 if the turn terminated, else of the next or the final prompt."""
        turn = episode.turns[index]
        if turn.terminated:
            return 0.0
        if turn.truncated:
            return self.first_value(turn.final_prompt, turn.final_images)
        following = episode.turns[index + 1]
        return self.first_value(following.prompt, following.images)


def row_of(values, b: int, n: int) -> SimpleNamespace:
    """The n tokens of row b of the package's values, as [`slow_targets`] takes them."""
    return SimpleNamespace(
        **{name: getattr(values, name)[b, :n].tolist() for name in ("logp", "v_target", "q_target")}
    )


def slow_targets(objective: Objective, values, reward: float, next_value: float) -> list[float]:
    """TD targets of one turn, by the formulas of the design: a loop, no tensors.

    `values` has sequences `logp`, `v_target` and `q_target` of n floats; `next_value` is already 0 after a termination.
    """
    n = len(values.v_target)
    turn_target = objective.reward_scale * reward + objective.gamma * next_value

    def target(i: int) -> float:
        """Of token i, counted from 1."""
        if objective.td_horizon == "turn":
            return turn_target * math.prod([objective.token_gamma] * (n - i))
        if i == n:
            return turn_target
        following = values.v_target[i]  # list position i is token i + 1
        if objective.td_horizon == "tree_backup":
            following += math.exp(values.logp[i]) * (target(i + 1) - values.q_target[i])
        return objective.token_gamma * following

    return [float(target(i)) for i in range(1, n + 1)]


class TableModel(nn.Module):
    """A policy that is a table: logits [states, tokens]."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.config = None

    @property
    def device(self) -> torch.device:
        return self.logits.device


class TableBackbone:
    """States are one-hot vectors, policies tables: what VLMActorCritic asks of a backbone, without a network."""

    def __init__(self, logits: torch.Tensor, valid: torch.Tensor | None = None):
        self.model = TableModel(logits)
        self.hidden_size, self.n_logits = logits.shape
        self._valid = torch.ones(self.n_logits, dtype=torch.bool) if valid is None else valid

    def valid_token_mask(self) -> torch.Tensor:
        return self._valid

    def forward(self, inputs: dict[str, torch.Tensor], keep: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.states(inputs, keep), self.model.logits[inputs["state"][:, -keep:]]

    def states(self, inputs: dict[str, torch.Tensor], keep: int) -> torch.Tensor:
        return nn.functional.one_hot(inputs["state"][:, -keep:], self.hidden_size).float()

    def language_head(self, inputs: dict[str, torch.Tensor]) -> LanguageHead:
        return LanguageHead(self.model.logits.T)


def make_images(count: int, rng: np.random.Generator) -> list[PIL.Image.Image]:
    return [PIL.Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(count)]


def make_prompt(images: int, rng: np.random.Generator) -> list[dict]:
    text = "".join(rng.choice(list("abc defg"), size=int(rng.integers(1, 16))))
    content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    system = [{"role": "system", "content": [{"type": "text", "text": "Walk."}]}] if rng.random() < 0.5 else []
    return [*system, {"role": "user", "content": content}]


def make_episodes(endings: list[tuple[int, str]], seed: int = 0, images: tuple[int, ...] = (0, 1, 2)) -> list[Episode]:
    """Random episodes of given lengths; an ending is "terminated", "truncated" or "both"."""
    rng = np.random.default_rng(seed)

    def observation() -> tuple[list[dict], list[PIL.Image.Image]]:
        count = int(rng.choice(images))
        return make_prompt(count, rng), make_images(count, rng)

    episodes = []
    for number, (length, ending) in enumerate(endings):
        turns = []
        for i in range(length):
            prompt, seen = observation()
            last = i == length - 1
            truncated = last and ending in ("truncated", "both")
            final_prompt, final_images = observation() if truncated else (None, None)
            turns.append(
                Turn(
                    prompt,
                    seen,
                    str(rng.choice(COMPLETIONS)),
                    reward=float(np.float32(rng.normal())),
                    terminated=last and ending in ("terminated", "both"),
                    truncated=truncated,
                    final_prompt=final_prompt,
                    final_images=final_images,
                )
            )
        episodes.append(Episode(f"episode {number}", turns))
    return episodes


@pytest.fixture(scope="session")
def lively_vlm(tiny_vlm) -> Callable[..., nn.Module]:
    """The tiny VLM with larger weights: its policy is far from uniform and its states depend on what came before."""
    make, _ = tiny_vlm

    def build(seed: int = 0) -> nn.Module:
        model = make(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2 and "embed" not in name:
                    parameter.mul_(16 if "lm_head" in name else 6)
            model.get_input_embeddings().weight.mul_(20)
        return model

    return build


@pytest.fixture(scope="session")
def make_actor_critic(lively_vlm, tiny_vlm) -> Callable[..., VLMActorCritic]:
    """An actor-critic over the lively VLM whose critics and targets are random and differ from each other."""
    _, processor = tiny_vlm

    def build(
        objective: Objective | None = None, seed: int = 0, frozen_vision: bool = False, **kwargs
    ) -> VLMActorCritic:
        vlm = lively_vlm(seed)
        if frozen_vision:
            for name, parameter in vlm.named_parameters():
                parameter.requires_grad_("language_model" in name or "lm_head" in name)
        model = VLMActorCritic(make_backbone(vlm, processor), objective or Objective(), **kwargs)
        randomise_critics(model, seed)
        return model

    return build


def randomise_critics(model: VLMActorCritic, seed: int = 0) -> None:
    if model.critic is None:
        return
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for critic in (model.critic, model.target_critic):
            for name in ("up_weight", "up_bias", "down_weight", "down_bias"):
                tensor = getattr(critic, name)
                scale = tensor.shape[-1] ** -0.5 if "weight" in name else 0.2
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * scale)


@pytest.fixture(scope="session")
def trainer_args(tmp_path_factory) -> Callable[..., AFSFTConfig]:
    """Arguments of a quiet run on the CPU."""

    def build(**kwargs) -> AFSFTConfig:
        settings = {
            "output_dir": str(tmp_path_factory.mktemp("run")),
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "logging_steps": 1,
        }
        return AFSFTConfig(**{**settings, **kwargs})

    return build


@pytest.fixture(scope="session")
def slow() -> SimpleNamespace:
    """The slow computations and the builders of inputs, for test modules that cannot import this file."""
    return SimpleNamespace(
        Reference=Reference,
        TableBackbone=TableBackbone,
        row=row_of,
        targets=slow_targets,
        make_episodes=make_episodes,
        make_images=make_images,
        make_prompt=make_prompt,
        make_dataset=lambda *args, **kwargs: episodes_to_dataset(make_episodes(*args, **kwargs)),
        randomise_critics=randomise_critics,
        chi_square_p=chi_square_p,
    )


def chi_square_p(observed: np.ndarray, expected: np.ndarray) -> float:
    """p-value of Pearson's test; outcomes expected fewer than 5 times are counted together."""
    observed, expected = np.asarray(observed, dtype=float), np.asarray(expected, dtype=float)
    assert math.isclose(observed.sum(), expected.sum(), rel_tol=1e-6)
    rare = expected < 5
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] == 0:
        assert observed[-1] == 0, "an impossible outcome happened"
        observed, expected = observed[:-1], expected[:-1]
    statistic = ((observed - expected) ** 2 / expected).sum()
    half = torch.tensor([(len(expected) - 1) / 2, statistic / 2], dtype=torch.float64)
    return torch.special.gammaincc(half[0], half[1]).item()
