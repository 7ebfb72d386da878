# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a hand is worth and who wins."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """
    Options of the game. At most one may be set.

    Args:
        natural (`bool`, *optional*, defaults to `False`):
            A win with a natural pays 1.5.
        sab (`bool`, *optional*, defaults to `False`):
            A natural of the player wins unless the dealer has one.
    """

    natural: bool = False
    sab: bool = False

    def __post_init__(self):
        if self.natural and self.sab:
            raise ValueError("natural=True and sab=True are two different rules for the same hand: choose one.")


PLAIN = Rules()


def hand_total(values: Sequence[int]) -> tuple[int, bool]:
    """The total of card values (an ace is 1), and whether one ace counts as 11 in it."""
    total = sum(values)
    soft = 1 in values and total <= 11
    return total + 10 * soft, soft


def is_natural(values: Sequence[int]) -> bool:
    """Whether the hand is an ace and a card of value 10."""
    return sorted(values) == [1, 10]


def settle(player: int, player_natural: bool, dealer: int, dealer_natural: bool, rules: Rules) -> float:
    """The reward when a player who did not bust stands: totals of both, and whether each is a natural."""
    if rules.sab and player_natural and not dealer_natural:
        return 1.0
    reward = 1.0 if dealer > 21 or player > dealer else 0.0 if player == dealer else -1.0
    return 1.5 if rules.natural and player_natural and reward == 1.0 else reward
