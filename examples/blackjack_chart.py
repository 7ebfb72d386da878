# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An agent's Blackjack strategy as a chart beside the best one, and what exactly it would win.

    python examples/blackjack_chart.py --agent outputs/blackjack/afsft --figure strategy.png

The agent is asked about several pictures of every hand (total, ace, dealer's card). From its probabilities of hitting follows
by dynamic programming how often it wins, without the noise of games. That differs from play in two ways: pictures of one hand
are averaged, and its syntax is taken for granted.
"""

from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
from transformers import HfArgumentParser

from trl_vlmq import VLMActorCritic, load_backbone
from trl_vlmq.diagnostics import action_values
from trl_vlmq.env_record import load_environment
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.envs.gym_cards import BlackjackEnv
from trl_vlmq.envs.gym_cards.blackjack_oracle import STATES, Score, State, best_policy, evaluate_policy
from trl_vlmq.envs.gym_cards.blackjack_rules import hand_total
from trl_vlmq.envs.gym_cards.cards import Card, draw_card
from trl_vlmq.losses import Objective
from trl_vlmq.prompt_record import load_prompt


@dataclass
class ChartArguments:
    """Whose strategy."""

    agent: str = field(metadata={"help": "Folder of an agent that examples/train_gym_cards.py has trained."})
    figure: str = field(default="strategy.png", metadata={"help": "File to write, PNG or SVG."})


def ask_about_hands(
    model: VLMActorCritic, env_kwargs: dict, prompt_builder: PromptBuilder, pictures: int = 4, seed: int = 0
) -> dict[State, np.ndarray]:
    """
    Probability of hitting, given that the answer is one of the two actions, for every hand.

    Args:
        model ([`VLMActorCritic`]):
            The agent.
        env_kwargs (`dict`), prompt_builder ([`PromptBuilder`]):
            As it was trained.
        pictures (`int`, *optional*, defaults to `4`):
            Pictures of each hand: different cards with the same total.
        seed (`int`, *optional*, defaults to `0`):
            Of the cards.

    Returns:
        `dict[State, numpy.ndarray]`: float64 [pictures] for each (total, soft, dealer's card).
    """
    env: BlackjackEnv = gymnasium.make("trl_vlmq/Blackjack-v0", **env_kwargs).unwrapped
    rng = np.random.default_rng(seed)
    prompts, states = [], []
    for state in STATES:
        for _ in range(pictures):
            player, dealer = deal(state, rng)
            observation, _ = env.reset(seed=seed, options={"player": player, "dealer": dealer})
            prompts.append(prompt_builder.build(observation))
            states.append(state)
    texts = [[env.write("hit"), env.write("stand")]] * len(prompts)
    _, logp = action_values(model, prompts, texts)
    hits = 1 / (1 + np.exp(logp[:, 1] - logp[:, 0]))
    return {state: hits[i * pictures : (i + 1) * pictures] for i, state in enumerate(STATES)}


def deal(state: State, rng: np.random.Generator) -> tuple[list[Card], list[Card]]:
    """Cards of the player and of the dealer that make this state, drawn as in play."""
    total, soft, upcard = state
    while True:
        cards = [draw_card(rng), draw_card(rng)]
        while (now := hand_total([card.value for card in cards])[0]) < 21 and (now < total or rng.random() < 0.3):
            cards.append(draw_card(rng))
        if hand_total([card.value for card in cards]) == (total, soft):
            break
    dealer = draw_card(rng)
    while dealer.value != upcard:
        dealer = draw_card(rng)
    return cards, [dealer, draw_card(rng)]


def exact_scores(hits: dict[State, np.ndarray]) -> dict[str, Score]:
    """What the strategy reaches greedily and sampled, computed over all deals."""
    return {
        "greedy": evaluate_policy(lambda state: float((hits[state] > 0.5).mean())),
        "sampled": evaluate_policy(lambda state: float(hits[state].mean())),
    }


def plot_strategy(path: str | Path, hits: dict[State, np.ndarray], title: str) -> None:
    """Write the chart (PNG, SVG, ... by its suffix).

    Args:
        path (`str` or `Path`):
            File to write.
        hits (`dict[State, numpy.ndarray]`):
            From [`ask_about_hands`].
        title (`str`):
            Headline.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    best = best_policy("return")
    dealers = [*range(2, 11), 1]
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, soft, name in ((panels[0], False, "hard hands"), (panels[1], True, "an ace counts as 11")):
        totals = sorted({total for total, is_soft, _ in hits if is_soft == soft}, reverse=True)
        share = np.array([[hits[total, soft, dealer].mean() for dealer in dealers] for total in totals])
        image = axes.imshow(share, cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
        for i, total in enumerate(totals):
            for j, dealer in enumerate(dealers):
                right = best[total, soft, dealer]
                agrees = (share[i, j] > 0.5) == right
                axes.text(
                    j, i, "H" if right else "S", ha="center", va="center", fontsize=8,
                    color="white" if not agrees or abs(share[i, j] - 0.5) > 0.3 else "#222222", weight="normal" if agrees else "bold",
                    bbox=None if agrees else {"boxstyle": "circle,pad=0.25", "color": "#b3202c"},
                )  # fmt: skip
        axes.set_xticks(range(len(dealers)), ["A" if dealer == 1 else str(dealer) for dealer in dealers])
        axes.set_yticks(range(len(totals)), totals)
        axes.set(xlabel="the dealer shows", ylabel="total of the hand", title=name)
        axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.02)
    bar.set_label("probability of hitting")
    figure.suptitle(f"{title}\nletters: the best policy (H hit, S stand); red where the agent prefers the other")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def chart(agent: str, figure: str | Path, title: str) -> dict[str, Score]:
    """Chart and exact scores of a saved agent."""
    backbone, record = load_backbone(agent), load_environment(agent)
    if record is None or record.env_id != "trl_vlmq/Blackjack-v0":
        raise SystemExit(f"{agent} is not an agent that examples/train_gym_cards.py has trained to play Blackjack.")
    model = VLMActorCritic(backbone, Objective(), critic_hidden_size=1)  # only its policy is asked
    hits = ask_about_hands(model, dict(record.env_kwargs), load_prompt(agent) or PromptBuilder())
    scores = exact_scores(hits)
    greedy, sampled = (scores[how] for how in ("greedy", "sampled"))
    most = evaluate_policy(lambda state: float(best_policy("return")[state]))
    plot_strategy(
        figure,
        hits,
        f"{title} wins {greedy.win:.2%} greedy, {sampled.win:.2%} sampled; the best policy {most.win:.2%}",
    )
    print(f"{agent}: wins exactly {greedy.win:.2%} greedy, {sampled.win:.2%} sampled, syntax aside; figure {figure}")
    return scores


def main() -> None:
    (args,) = HfArgumentParser(ChartArguments).parse_args_into_dataclasses()
    chart(args.agent, args.figure, Path(args.agent).name)


if __name__ == "__main__":
    main()
