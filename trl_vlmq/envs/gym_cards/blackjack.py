# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Blackjack."""

from typing import Any

import numpy as np

from trl_vlmq.envs.text_action import Behavior, Outcome

from .behaviors import NOISE, ScriptedBehavior
from .blackjack_oracle import best_policy
from .blackjack_rules import Rules, hand_total, is_natural, settle
from .card_env import GymCardsEnv
from .cards import Card, draw_card, words
from .painting import TablePainter


class BlackjackEnv(GymCardsEnv):
    """
    Blackjack against a dealer who stands on all 17s, from an infinite deck (Sutton and Barto, example 5.1).

    The upper row of the picture is the dealer's hand, one card of which lies face down until the player stands; below
    are the player's cards. Reward at the end: +1 for a win, -1 for a loss, 0 for a draw. A hand of 21 can be hit.
    `reset(options={"player": cards, "dealer": cards})` deals hands of your choice, lists of
    [`~trl_vlmq.envs.gym_cards.cards.Card`].

    Args:
        natural (`bool`, *optional*, defaults to `False`):
            A win with ace and ten as the first two cards pays 1.5.
        sab (`bool`, *optional*, defaults to `False`):
            Sutton and Barto's rules: such a hand wins unless the dealer has one, too.
        kwargs:
            Those of [`~trl_vlmq.envs.gym_cards.GymCardsEnv`].
    """

    behaviors = ("random", "expert", "noisy_expert", "reckless")

    def __init__(self, natural: bool = False, sab: bool = False, **kwargs):
        self.rules = Rules(natural, sab)
        task = "Blackjack. Above: the dealer's cards. Below: yours."
        super().__init__(["hit", "stand"], task, **{"max_steps": 20} | kwargs)
        self._painter = TablePainter(self.image_size)

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        self.episode_return = 0.0
        hands = {name: [draw_card(self.np_random) for _ in range(2)] for name in ("dealer", "player")}
        hands |= {name: list(cards) for name, cards in (options or {}).items()}
        if set(hands) != {"dealer", "player"} or len(hands["dealer"]) < 2:
            raise ValueError(
                f"options={options!r}: give the cards of `player`, and at least two of `dealer`, the first face up."
            )
        self.dealer: list[Card] = hands["dealer"]
        self.player: list[Card] = hands["player"]
        self._over = False

    def _observe(self) -> tuple[np.ndarray, str]:
        image = self._painter.empty()
        dealer = self.dealer if self._over else [self.dealer[0], None]
        self._painter.lay(image, dealer, top=0.03, columns=7, bottom=0.3)
        self._painter.lay(image, self.player, top=0.415, columns=7, bottom=1.0)
        return image, self._prompt()

    def describe(self) -> str:
        total, soft = hand_total([card.value for card in self.player])
        return f"Dealer: {self.dealer[0].name}. You: {words(self.player)}, {'soft ' if soft else ''}{total}."

    def _execute(self, action: str) -> Outcome:
        if action == "hit":
            self.player.append(draw_card(self.np_random))
            bust = self.total > 21
            self._over = bust
            return Outcome(-1.0 if bust else 0.0, terminated=bust)
        self._over = True
        while hand_total([card.value for card in self.dealer])[0] < 17:
            self.dealer.append(draw_card(self.np_random))
        player, dealer = ([card.value for card in hand] for hand in (self.player, self.dealer))
        reward = settle(
            hand_total(player)[0], is_natural(player), hand_total(dealer)[0], is_natural(dealer), self.rules
        )
        return Outcome(reward, terminated=True)

    def legal_actions(self) -> list[str]:
        return ["hit", "stand"]

    @property
    def total(self) -> int:
        """Of the player's hand, an ace counted as 11 where that does not bust."""
        return hand_total([card.value for card in self.player])[0]

    @property
    def state(self) -> tuple[int, bool, int]:
        """(the player's total, whether an ace counts as 11, value of the dealer's card): what tabular policies see."""
        total, soft = hand_total([card.value for card in self.player])
        return total, soft, self.dealer[0].value

    def _make_behavior(self, name: str, rng: np.random.Generator) -> Behavior:
        if name == "reckless":
            return ScriptedBehavior(self, rng, lambda: "hit" if self.total < 21 else "stand")
        policy = best_policy("return", self.rules)
        choose = lambda: "hit" if policy[self.state] else "stand"  # noqa: E731
        return ScriptedBehavior(self, rng, choose, noise=NOISE if name == "noisy_expert" else 0.0)
