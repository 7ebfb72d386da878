# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The token critic Q(s, .) and its target network."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from .hub import find_file
from .sharding import gathered_weight


CRITIC_WEIGHTS = "critic.safetensors"
CRITIC_CONFIG = "critic_config.json"
_TENSORS = ("up_weight", "up_bias", "down_weight", "down_bias")


@dataclass(frozen=True)
class CriticHead:
    """The output layer of C critics, and what it reads of N states: at least float32.

    Args:
        hidden (`torch.Tensor`): [C, N, hidden_size].
        weight (`torch.Tensor`): [C, vocab_size, hidden_size].
        bias (`torch.Tensor`): [C, vocab_size].
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, critic: nn.Module, states: torch.Tensor) -> "CriticHead":
        """Of a [`TokenCritic`] or a [`TargetCritic`], for states [N, state_size]."""
        dtype = torch.promote_types(states.dtype, torch.float32)
        up_weight, up_bias, down_weight, down_bias = (critic.per_head(name).to(dtype) for name in _TENSORS)
        with torch.autocast(states.device.type, enabled=False):
            hidden = F.silu(torch.einsum("nd,chd->cnh", states.to(dtype), up_weight) + up_bias[:, None])
        return cls(hidden, down_weight, down_bias)

    def values(self) -> torch.Tensor:
        """Q(s, .) of each critic, [C, N, vocab_size]."""
        with torch.autocast(self.hidden.device.type, enabled=False):
            return torch.baddbmm(self.bias[:, None], self.hidden, self.weight.mT)

    def of_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Q(s, a) of each critic, [C, N], for tokens [N]; the gradient touches their rows alone."""
        num_critics, vocabulary, _ = self.weight.shape
        rows = actions + vocabulary * torch.arange(num_critics, device=actions.device)[:, None]
        weight = F.embedding(rows, self.weight.flatten(0, 1))  # its backward is the one that makes no second copy
        return (self.hidden * weight).sum(-1) + self.bias.flatten()[rows]

    def tile(self, start: int, stop: int) -> torch.Tensor:
        """Mean over critics of Q of the tokens `start` to `stop`, [N, tokens]."""
        q = torch.baddbmm(self.bias[:, None, start:stop], self.hidden, self.weight[:, start:stop].mT)
        return q.mean(0)


class TokenCritic(nn.Module):
    """A Q-value for every token of the vocabulary, from the state that the language head reads.

    `num_critics` independent two-layer perceptrons `state_size -> hidden_size -> vocab_size` with SiLU between. The
    output layer starts at zero, so that every value is 0 before training. Mathematics is float32 whatever the trunk's
    dtype.

    The first axis of each weight runs over all heads and their rows, since FSDP2 shards by the first axis;
    [`TokenCritic.per_head`] gives the weights head by head, as the file holds them.

    Args:
        state_size (`int`):
            Width of the state.
        vocab_size (`int`):
            Number of logits the language head produces.
        hidden_size (`int`, *optional*):
            Width of the hidden layer; defaults to `state_size` (the paper; it uses 400 for MiniWoB).
        num_critics (`int`, *optional*, defaults to `1`):
            Number of heads (ours). Each learns on its own error; their mean is the value.
    """

    def __init__(self, state_size: int, vocab_size: int, hidden_size: int | None = None, num_critics: int = 1):
        super().__init__()
        hidden_size = hidden_size or state_size
        self.config = {
            "state_size": state_size,
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_critics": num_critics,
        }
        self.up_weight = nn.Parameter(torch.randn(num_critics * hidden_size, state_size) * state_size**-0.5)
        self.up_bias = nn.Parameter(torch.zeros(num_critics * hidden_size))
        self.down_weight = nn.Parameter(torch.zeros(num_critics * vocab_size, hidden_size))
        self.down_bias = nn.Parameter(torch.zeros(num_critics * vocab_size))

    def per_head(self, name: str) -> torch.Tensor:
        """A weight as [num_critics, rows, ...], a view of it."""
        return getattr(self, name).unflatten(0, (self.config["num_critics"], -1))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [N, state_size] of any float dtype -> Q-values [num_critics, N, vocab_size], float32."""
        return CriticHead.of(self, states).values()


class TargetCritic(nn.Module):
    """Polyak average of a [`TokenCritic`], in buffers that keep at least float32.

    Buffers, not parameters: no optimiser and no DeepSpeed cast touches them, and an average that moves by `tau` = 0.005
    of a difference would stall in bfloat16.
    """

    per_head = TokenCritic.per_head

    def __init__(self, critic: TokenCritic):
        super().__init__()
        self.config = critic.config
        for name in _TENSORS:
            source = getattr(critic, name).detach()
            self.register_buffer(name, source.to(torch.promote_types(source.dtype, torch.float32)).clone())

    def _apply(self, fn, recurse: bool = True):
        # Whoever casts a whole model (bf16_full_eval, DeepSpeed before 0.19.2) casts buffers too.
        def keep_precision(tensor: torch.Tensor) -> torch.Tensor:
            cast = fn(tensor)
            dtype = torch.promote_types(cast.dtype, torch.float32)
            return cast if cast.dtype == dtype else tensor.to(cast.device, dtype)

        return super()._apply(keep_precision, recurse)

    def become_shardable(self) -> None:
        """Hold the average in frozen parameters from now on: FSDP2 shards them, and leaves buffers whole."""
        for name in _TENSORS:
            self.register_parameter(name, nn.Parameter(self._buffers.pop(name), requires_grad=False))

    @torch.no_grad()
    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [N, state_size] -> target Q-values [num_critics, N, vocab_size], float32, without gradient."""
        return CriticHead.of(self, states).values()

    @torch.no_grad()
    def update(self, critic: TokenCritic, tau: float) -> None:
        """Move a share `tau` of the way to `critic`; `tau` = 1 copies it."""
        for name in _TENSORS:
            buffer, weight = getattr(self, name), getattr(critic, name)
            with gathered_weight(weight):
                buffer.lerp_(weight.detach().to(buffer), tau)


def save_critic(
    folder: str | Path, critic: TokenCritic, target: TargetCritic, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Write `critic.safetensors` (keys `critic.*` and `target.*`) and `critic_config.json` into `folder`.

    Args:
        folder (`str` or `Path`):
            Where to.
        critic ([`TokenCritic`]):
            The critic.
        target ([`TargetCritic`]):
            Its average.
        state_dict (`dict[str, torch.Tensor]`, *optional*):
            That of their [`VLMActorCritic`], for modules that hold a part of their weights.
    """
    tensors = {}
    for saved, prefix, module in (("critic", "critic", critic), ("target", "target_critic", target)):
        for name in _TENSORS:
            tensor = getattr(module, name) if state_dict is None else state_dict[f"{prefix}.{name}"]
            heads = tensor.detach().unflatten(0, (critic.config["num_critics"], -1))
            tensors[f"{saved}.{name}"] = heads.cpu().contiguous()
    save_file(tensors, Path(folder, CRITIC_WEIGHTS), metadata={"format": "pt"})
    Path(folder, CRITIC_CONFIG).write_text(json.dumps(critic.config, indent=2) + "\n")


def find_critic(name_or_path: str) -> str | None:
    """The folder that holds the critic of a saved model or adapter (a Hub id's is downloaded), `None` without one."""
    weights = find_file(name_or_path, CRITIC_WEIGHTS)
    if weights is None:
        return None
    find_file(name_or_path, CRITIC_CONFIG)
    return str(weights.parent)


def load_critic(folder: str | Path, critic: TokenCritic, target: TargetCritic) -> None:
    """Read what [`save_critic`] wrote into existing modules.

    Raises:
        ValueError: if the files are missing, or were written for another size of critic.
    """
    config_path = Path(folder, CRITIC_CONFIG)
    if not config_path.is_file() or not Path(folder, CRITIC_WEIGHTS).is_file():
        raise ValueError(
            f"{folder} holds no critic ({CRITIC_WEIGHTS}, {CRITIC_CONFIG}): it was saved by plain SFT or only its "
            "adapter was copied. Start a new critic by training from the adapter without resuming."
        )
    saved = json.loads(config_path.read_text())
    if saved != critic.config:
        raise ValueError(f"The critic in {folder} was saved with {saved}, but this run asks for {critic.config}.")
    tensors = load_file(Path(folder, CRITIC_WEIGHTS))
    critic.load_state_dict({name: tensors[f"critic.{name}"].flatten(0, 1) for name in _TENSORS})
    target.load_state_dict({name: tensors[f"target.{name}"].flatten(0, 1) for name in _TENSORS})
