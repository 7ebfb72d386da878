# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pictures of Gym Cards with questions and answers about them, for examples/pretrain_tiny_vlm.py.

Questions are about what is to be seen, totals of hands included: what the cards are, what they are worth, where the numbers of
a line are. Never about an action.
"""

import random
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
from tqdm.auto import tqdm

import trl_vlmq.envs  # noqa: F401 (registers the games)
from trl_vlmq.envs.gym_cards.blackjack_rules import hand_total
from trl_vlmq.envs.gym_cards.cards import Card, words


DESCRIBE = "Describe what you see."
VOCABULARY = 640
IMAGE_SIZE = 112
GAMES = {"Blackjack": 0.55, "Points24": 0.2, "EZPoints": 0.1, "NumberLine": 0.15}
# Sizes of a hand in random and in good play, the rare large ones a little more often.
HAND_SIZES = {2: 0.4, 3: 0.3, 4: 0.15, 5: 0.08, 6: 0.04, 7: 0.02, 8: 0.01}
# Wording that environments use, for the tokenizer's merges only; the weights are never trained on it.
TOKENIZER_TEXTS = (
    '{"action": "hit"}', '{"action": "stand"}', *(f'{{"action": "{sign}"}}' for sign in "123456789+-*/()="),
    '{"action": "10"}', "Blackjack. Above: the dealer's cards. Below: yours.", "Bring the current number to the target.",
    "Write a formula that uses every card once and equals 24. A is 1; J, Q and K are 10.", "\nFormula: 8 / ( 3 - 8 / 3 )",
    "\nFormula: 10 + 2", "Actions: hit, stand.\n", 'Answer with {"action": "..."}', '{"thoughts": "',
)  # fmt: skip


@dataclass
class View:
    """One picture with what may be asked about it."""

    image: np.ndarray | None  # uint8 [112, 112, 3]
    description: str
    answers: dict[str, str]
    text: str = ""  # nothing is told beside the picture


def generate_views(num_layouts: int, rng: random.Random, views_per_layout: int = 6) -> list[View]:
    """Random hands, deals and lines. Hands of one game share the dealer's card: what differs is what must be read."""
    envs = {game: gym.make(f"trl_vlmq/{game}-v0", image_size=IMAGE_SIZE, render_mode="rgb_array") for game in GAMES}
    views = []
    for _ in tqdm(range(num_layouts), desc="views", mininterval=2):
        game = rng.choices(list(GAMES), list(GAMES.values()))[0]
        env = envs[game].unwrapped
        env.reset(seed=rng.randrange(2**31))
        for _ in range(views_per_layout):
            if game == "Blackjack":
                sizes = rng.choices(list(HAND_SIZES), list(HAND_SIZES.values()))[0]
                env.player = [random_card(rng) for _ in range(sizes)]
                answers = about_blackjack(env.player, env.dealer[0])
            elif game == "NumberLine":
                env.number, env.target = rng.sample(range(env.last + 1), 2)
                answers = about_line(env.number, env.target)
            else:
                env.cards = [random_card(rng) for _ in range(env.num_cards)]
                answers = about_deal(env.cards)
            views.append(View(env.render(), env.describe(), answers))
    return views


def random_card(rng: random.Random) -> Card:
    return Card(rng.randint(1, 13), rng.randrange(4))


def about_blackjack(player: list[Card], dealer: Card) -> dict[str, str]:
    total, soft = hand_total([card.value for card in player])
    return {
        "What is your total?": f"{'soft ' if soft else ''}{total}",
        "What are your cards?": words(player),
        "What does the dealer show?": dealer.name,
        "Who has how much?": f"dealer {dealer.value}, you {'soft ' if soft else ''}{total}",
    }


def about_deal(cards: list[Card]) -> dict[str, str]:
    answers = {
        "Which cards are these?": words(cards),
        "What are they worth?": " ".join(str(card.value) for card in cards),
        "Sorted by value?": " ".join(str(value) for value in sorted(card.value for card in cards)),
    }
    return answers | {f"How many are worth {v}?": str(sum(card.value == v for card in cards)) for v in range(1, 11)}


def about_line(number: int, target: int) -> dict[str, str]:
    return {
        "What is the target?": str(target),
        "What is the current number?": str(number),
        "Which one is larger?": "the target" if target > number else "the current number",
        "How far apart are they?": str(abs(target - number)),
    }


def ask(view: View, rng: random.Random) -> tuple[str, str]:
    """A question about the view, and its answer."""
    if rng.random() < 0.25:
        return DESCRIBE, view.description
    question = rng.choice(list(view.answers))
    if question.startswith("How many") and rng.random() < 0.5:  # there are ten of these
        question = rng.choice([other for other in view.answers if not other.startswith("How many")])
    return question, view.answers[question]


def kind_of(question: str) -> str:
    """Questions whose accuracy is counted together."""
    if question == DESCRIBE:
        return "describe"
    return "total" if "total" in question or "how much" in question else "other"
