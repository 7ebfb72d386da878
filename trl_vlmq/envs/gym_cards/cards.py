# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Playing cards, drawn with replacement from a full deck."""

from typing import NamedTuple

import numpy as np


RANKS = ("A", "2", "3", "4", "5", "6", "7", "8", "9", "10", "J", "Q", "K")
SUITS = ("clubs", "diamonds", "hearts", "spades")


class Card(NamedTuple):
    """
    A playing card.

    Args:
        rank (`int`):
            1 (ace) to 13 (king).
        suit (`int`):
            Index into `SUITS`. No game here depends on it.
    """

    rank: int
    suit: int

    @property
    def value(self) -> int:
        """Points: an ace is 1, face cards are 10."""
        return min(self.rank, 10)

    @property
    def name(self) -> str:
        return RANKS[self.rank - 1]

    def __str__(self) -> str:
        return f"{self.name} of {SUITS[self.suit]}"


def draw_card(rng: np.random.Generator, lowest: int = 1) -> Card:
    """A card of an infinite deck, of rank `lowest` or above."""
    rank, suit = divmod(int(rng.integers(4 * (lowest - 1), 52)), 4)
    return Card(rank + 1, suit)


def card_of_value(value: int, rng: np.random.Generator) -> Card:
    """A number card (an ace for 1) with a random suit."""
    return Card(value, int(rng.integers(4)))


def words(cards: list[Card]) -> str:
    """Ranks only, in the order in which they lie on the table: `"A 10 7"`."""
    return " ".join(card.name for card in cards)
