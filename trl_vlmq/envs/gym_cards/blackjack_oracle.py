# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The exact value of blackjack policies, by dynamic programming over the infinite deck."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from .blackjack_rules import PLAIN, Rules, hand_total, is_natural, settle


# Value -> probability of the next card.
DECK = {value: (4 if value == 10 else 1) / 13 for value in range(1, 11)}

State = tuple[int, bool, int]  # the player's total, whether an ace counts as 11 in it, the dealer's card
STATES: tuple[State, ...] = tuple(
    (total, soft, upcard)
    for soft in (False, True)
    for total in (range(12, 22) if soft else range(4, 22))
    for upcard in DECK
)

Policy = Callable[[State], float]  # probability of hitting


def random_policy(state: State) -> float:
    return 0.5


def always_stand(state: State) -> float:
    return 0.0


def hit_below_17(state: State) -> float:
    return float(state[0] < 17)


class Score(NamedTuple):
    """
    What a policy reaches.

    Args:
        win (`float`):
            Probability of winning.
        expected_return (`float`):
            Mean reward of a game.
    """

    win: float
    expected_return: float


def evaluate_policy(policy: Policy, rules: Rules = PLAIN) -> Score:
    """
    Exact scores of a tabular policy over all first deals.

    Args:
        policy (`Callable[[State], float]`):
            Probability of hitting in a state (total, soft, dealer's card).
        rules ([`Rules`], *optional*):
            Options of the game.
    """
    values = {}

    def value(state: State) -> Score:
        if state not in values:
            hit = policy(state)
            values[state] = _mix((hit, _hit(state, value)), (1 - hit, _stand(state, False, rules)))
        return values[state]

    def first(state: State, natural: bool) -> Score:
        if not natural:
            return value(state)
        hit = policy(state)
        return _mix((hit, _hit(state, value)), (1 - hit, _stand(state, True, rules)))

    return _mix(*((probability, first(state, natural)) for probability, state, natural in _first_deals()))


@cache
def best_policy(objective: str = "return", rules: Rules = PLAIN) -> dict[State, bool]:
    """
    Where to hit, for all hands: a soft 21, natural or not, is never hit. Ties stand.

    Args:
        objective (`str`, *optional*, defaults to `"return"`):
            What is best: `"return"` or the probability to `"win"`, in which a draw counts as a loss.
        rules ([`Rules`], *optional*):
            Options of the game.
    """
    hits, stands = action_values(objective, rules)
    return {state: hits[state] > stands[state] for state in STATES}


def action_values(objective: str = "return", rules: Rules = PLAIN) -> tuple[dict[State, float], dict[State, float]]:
    """
    Q of hitting and of standing under the best policy, for hands that are no natural.

    Args:
        objective (`str`, *optional*, defaults to `"return"`):
            `"return"` or `"win"`.
        rules ([`Rules`], *optional*):
            Options of the game.

    Raises:
        ValueError: `objective` is neither.
    """
    if objective not in ("return", "win"):
        raise ValueError(f"objective={objective!r} must be 'return' or 'win'.")
    part = Score._fields.index("win" if objective == "win" else "expected_return")
    best: dict[State, Score] = {}
    hits, stands = {}, {}

    def value(state: State) -> Score:
        if state not in best:
            hit, stand = _hit(state, value), _stand(state, False, rules)
            hits[state], stands[state] = hit[part], stand[part]
            best[state] = hit if hit[part] > stand[part] else stand
        return best[state]

    for state in STATES:
        value(state)
    return hits, stands


def _mix(*parts: tuple[float, Score]) -> Score:
    return Score(*(sum(probability * score[i] for probability, score in parts) for i in range(2)))


def _hit(state: State, value: Callable[[State], Score]) -> Score:
    total, soft, upcard = state
    parts = []
    for card, probability in DECK.items():
        new_total, new_soft = add_card(total, soft, card)
        parts.append((probability, Score(0.0, -1.0) if new_total > 21 else value((new_total, new_soft, upcard))))
    return _mix(*parts)


def _stand(state: State, natural: bool, rules: Rules) -> Score:
    parts = []
    for (total, dealer_natural), probability in dealer_outcomes(state[2]).items():
        reward = settle(state[0], natural, total, dealer_natural, rules)
        parts.append((probability, Score(float(reward > 0), reward)))
    return _mix(*parts)


def add_card(total: int, soft: bool, card: int) -> tuple[int, bool]:
    """Total and softness after another card."""
    total += card
    if card == 1 and not soft and total + 10 <= 21:
        return total + 10, True
    if soft and total > 21:
        return total - 10, False
    return total, soft


@cache
def dealer_outcomes(upcard: int) -> dict[tuple[int, bool], float]:
    """Probability of each (final total, whether it is a natural) of the dealer, given the card that lies face up."""
    outcomes: dict[tuple[int, bool], float] = {}

    def play(total: int, soft: bool, probability: float) -> None:
        if total >= 17:
            outcomes[total, False] = outcomes.get((total, False), 0.0) + probability
            return
        for card, chance in DECK.items():
            play(*add_card(total, soft, card), probability * chance)

    for hole, chance in DECK.items():
        if is_natural([upcard, hole]):
            outcomes[21, True] = outcomes.get((21, True), 0.0) + chance
        else:
            play(*hand_total([upcard, hole]), chance)
    return outcomes


def _first_deals() -> list[tuple[float, State, bool]]:
    deals: dict[tuple[State, bool], float] = {}
    for upcard, third in DECK.items():
        for one, first in DECK.items():
            for two, second in DECK.items():
                key = ((*hand_total([one, two]), upcard), is_natural([one, two]))
                deals[key] = deals.get(key, 0.0) + first * second * third
    return [(probability, *key) for key, probability in deals.items()]
