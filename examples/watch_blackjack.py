# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a critic thinks of Blackjack hands while it trains, beside what they are worth."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from tqdm.auto import tqdm
from transformers import TrainerCallback

from trl_vlmq.diagnostics import action_values
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.envs.gym_cards import BlackjackEnv
from trl_vlmq.envs.gym_cards.blackjack_oracle import State
from trl_vlmq.envs.gym_cards.blackjack_oracle import action_values as exact_values


ACTIONS = ("hit", "stand")


class BlackjackCritic(TrainerCallback):
    """
    Reads Q(hit) - Q(stand) of the same hands every so many optimiser steps.

    Hands are those of the random policy, `num_games` games. What they are worth is the difference under the best policy.

    Args:
        env (`dict`):
            `env_kwargs` and `prompt_builder` that the agent is trained with.
        every_steps (`int`):
            Optimiser steps between two looks; the last step is looked at as well.
        num_games (`int`, *optional*, defaults to `300`):
            Games.
    """

    def __init__(self, env: dict[str, Any], every_steps: int, num_games: int = 300):
        self.every_steps = every_steps
        self.prompts, self.texts, self.states = visit_hands(env["env_kwargs"], env["prompt_builder"], num_games)
        hits, stands = exact_values("return")
        self.exact = np.array([hits[state] - stands[state] for state in self.states])
        self.looks: list[tuple[int, np.ndarray]] = []  # step, Q(hit) - Q(stand) of each hand in rewards

    def on_step_end(self, args, state, control, model=None, **kwargs):
        due = state.global_step % self.every_steps == 0 or state.global_step == state.max_steps
        if not due or not state.is_world_process_zero or model.critic is None:
            return
        q, _ = action_values(model, self.prompts, self.texts)
        self.looks.append((state.global_step, (q[:, 0] - q[:, 1]) / args.reward_scale))
        tqdm.write(f"step {state.global_step}: {self.sentence()}")

    def sentence(self) -> str:
        """The newest look in words."""
        _, found = self.looks[-1]
        right = np.mean((found > 0) == (self.exact > 0))
        totals = np.array([total for total, _, _ in self.states])
        by_total = " ".join(
            f"{t}:{found[totals == t].mean():+.2f}" for t in (6, 11, 14, 17, 20) if (totals == t).any()
        )
        correlation = np.corrcoef(found, self.exact)[0, 1] if np.ptp(found) > 0 else 0.0
        return f"Q(hit) - Q(stand) by total {by_total}; right sign {right:.0%}, correlation {correlation:.2f}"

    def plot(self, path: str | Path) -> None:
        """Write a figure: the difference by total on the way, and that of the best policy.

        Args:
            path (`str` or `Path`):
                File to write.
        """
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        soft = np.array([is_soft for _, is_soft, _ in self.states])
        totals = np.array([total for total, _, _ in self.states])
        for axes, shown, title in ((panels[0], ~soft, "hard hands"), (panels[1], soft, "an ace counts as 11")):
            values = np.unique(totals[shown])
            for i, (step, found) in enumerate(self.looks):
                color = colormaps["viridis_r"](0.15 + 0.85 * i / max(1, len(self.looks) - 1))
                means = [found[shown & (totals == t)].mean() for t in values]
                axes.plot(values, means, color=color, linewidth=1.4, label=f"step {step}")
            exact = [self.exact[shown & (totals == t)].mean() for t in values]
            axes.plot(values, exact, "o--", color="#c8442b", markersize=5, label="best policy, exact")
            axes.axhline(0, color="#444444", linewidth=0.8, linestyle=":")
            axes.set(xlabel="total of the hand", title=title)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("Q(hit) - Q(stand), in rewards")
        panels[0].legend(frameon=False, fontsize=8)
        figure.suptitle("Does the critic see the hand? Mean over the hands of random play")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


def visit_hands(
    env_kwargs: dict[str, Any], prompt_builder: PromptBuilder, num_games: int, seed: int = 4_000_000
) -> tuple[list, list[list[str]], list[State]]:
    """Prompts with images, texts of the two actions and states of the hands that random play comes by."""
    env: BlackjackEnv = gymnasium.make("trl_vlmq/Blackjack-v0", **env_kwargs).unwrapped
    prompts, texts, states = [], [], []
    for game in range(num_games):
        observation, _ = env.reset(seed=seed + game)
        rng = np.random.default_rng([seed + game, 1])
        terminated = False
        while not terminated:
            prompts.append(prompt_builder.build(observation))
            texts.append([env.write(action) for action in ACTIONS])
            states.append(env.state)
            observation, _, terminated, _, _ = env.step(texts[-1][rng.integers(2)])
    return prompts, texts, states
