# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""EZPoints and Points24: make a number from the cards."""

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from trl_vlmq.envs.text_action import Behavior, Outcome

from .behaviors import NOISE, ScriptedBehavior
from .card_env import GymCardsEnv
from .cards import Card, card_of_value, draw_card, words
from .formulas import evaluate, may_follow, random_formula, solutions
from .painting import TablePainter


NUMBERS = tuple(str(number) for number in range(1, 11))


class PointsEnv(GymCardsEnv):
    """
    Writes a formula, one number or sign at a time, that uses every card once and equals the target.

    A number that no unused card shows costs 1 and is not written. `=` ends the episode: +10 for the target with all
    cards, else -1. The prompt holds the formula so far. Values are exact fractions (8 / (3 - 8 / 3) is 24).

    Args:
        target (`int`):
            What to make.
        num_cards (`int`):
            Cards of a deal.
        operators (`Sequence[str]`):
            Signs of the game, `=` apart.
        deals (`str`, *optional*):
            `"train"` or `"held_out"`: deals that [`is_held_out`] does not hold out, or only those, so that an agent can be
            examined on cards that it has never seen together.
        join_digits (`bool`, *optional*, defaults to `False`):
            Numbers written one after the other become one, as in RL4VLM: `1`, `2` is 12. By default that is no formula.
        kwargs:
            Those of [`~trl_vlmq.envs.gym_cards.GymCardsEnv`].
    """

    behaviors = ("random", "expert", "noisy_expert", "forgetful", "careless")

    def __init__(
        self, target: int, num_cards: int, operators: Sequence[str], *, deals: str | None = None,
        join_digits: bool = False, **kwargs,
    ):  # fmt: skip
        if deals not in (None, "train", "held_out"):
            raise ValueError(f"deals={deals!r} must be 'train', 'held_out' or None.")
        self.deals = deals
        self.target, self.num_cards = target, num_cards
        self.operators, self.join_digits = tuple(operators), join_digits
        self.signs = tuple(sign for sign in operators if sign not in "()")
        task = f"Write a formula that uses every card once and equals {target}. A is 1; J, Q and K are 10."
        super().__init__([*NUMBERS, *operators, "="], task, **kwargs)
        self._painter = TablePainter(self.image_size)

    def _deal(self) -> list[Card]:
        """The cards of an episode, drawn from `self.np_random`."""
        raise NotImplementedError

    def _reset(self, seed: int | None, options: dict[str, Any] | None) -> None:
        self.episode_return = 0.0
        self.cards = self._deal()
        while self.deals is not None and is_held_out(self.cards) != (self.deals == "held_out"):
            self.cards = self._deal()
        self.formula: list[str] = []

    def _observe(self) -> tuple[np.ndarray, str]:
        image = self._painter.empty()
        self._painter.lay(image, self.cards, top=0.25, columns=max(3, self.num_cards))
        return image, self._prompt(f"\nFormula: {' '.join(self.formula)}".rstrip())

    def describe(self) -> str:
        return f"Cards: {words(self.cards)}."

    def unused(self) -> Counter[str]:
        """Numbers of the cards that the formula does not use yet."""
        return Counter(str(card.value) for card in self.cards) - Counter(self.formula)

    def value(self):
        """Exact value of the formula so far, a `Fraction`; `None` if it is not well-formed."""
        return evaluate(_joined(self.formula) if self.join_digits else self.formula)

    def _execute(self, action: str) -> Outcome:
        if action == "=":
            solved = not self.unused() and self.value() == self.target
            return Outcome(10.0 if solved else -1.0, terminated=True)
        if action in NUMBERS and not self.unused()[action]:
            return Outcome(-1.0, effective=False)
        self.formula.append(action)
        return Outcome()

    def legal_actions(self) -> list[str]:
        """What keeps the formula well-formed; everything that costs nothing at once, if it no longer is."""
        left = self.unused()
        numbers = [number for number in NUMBERS if left[number]]
        if not self._is_sound():
            return [*numbers, *self.operators, "="]
        follow = may_follow(self.formula, self.operators, left.total())
        return [action for entry in follow for action in (numbers if entry == "number" else [entry])]

    def _is_sound(self) -> bool:
        """Whether the formula so far is the beginning of a well-formed one."""
        for i, token in enumerate(self.formula):
            left = self.num_cards - sum(earlier in NUMBERS for earlier in self.formula[:i])
            entry = "number" if token in NUMBERS else token
            if entry not in may_follow(self.formula[:i], self.operators, left):
                return False
        return True

    def _make_behavior(self, name: str, rng: np.random.Generator) -> Behavior:
        values = sorted(card.value for card in self.cards)
        if name == "careless":
            formulas = [self._wrong_formula(values, rng)]
        else:
            formulas = solutions(tuple(values), self.target, self.signs)
        plans = [[*formula, "="] for formula in formulas]

        def choose() -> str:
            used = [token for token in self.formula if token in NUMBERS]
            if name == "forgetful" and used and rng.random() < NOISE:
                return used[int(rng.integers(len(used)))]  # not written if no other card shows it, and a point lost
            return self._continue(plans)

        return ScriptedBehavior(self, rng, choose, noise=NOISE if name == "noisy_expert" else 0.0)

    def _continue(self, plans: list[list[str]]) -> str:
        """The next token of the first plan that begins with the formula so far; where there is none, give up."""
        written = len(self.formula)
        for plan in plans:
            if plan[:written] == self.formula:
                return plan[written]
        return "="

    def _wrong_formula(self, values: list[int], rng: np.random.Generator) -> tuple[str, ...]:
        while True:
            formula = random_formula(values, self.signs, rng)
            if evaluate(formula) != self.target:
                return formula


class EZPointsEnv(PointsEnv):
    """
    Two cards that make 12 by a sum or a product.

    Deals are drawn as in RL4VLM: a card from 2 to king, and one that makes 12 with it (by a product, if there is one,
    half of the time), in random order.

    Args:
        kwargs:
            Those of [`PointsEnv`], `target`, `num_cards` and `operators` apart.
    """

    def __init__(self, **kwargs):
        super().__init__(12, 2, ("+", "*"), **{"max_steps": 7} | kwargs)

    def _deal(self) -> list[Card]:
        rng = self.np_random
        first = draw_card(rng, lowest=2)
        by_product = 12 % first.value == 0 and rng.random() < 0.5
        second = card_of_value(12 // first.value if by_product else 12 - first.value, rng)
        return [second, first] if rng.random() < 0.5 else [first, second]


class Points24Env(PointsEnv):
    """
    Four cards, drawn independently, 24 and all four operations. 73.1% of the deals have a solution.

    Args:
        kwargs:
            Those of [`PointsEnv`], `target`, `num_cards` and `operators` apart.
    """

    def __init__(self, **kwargs):
        super().__init__(24, 4, ("+", "-", "*", "/", "(", ")"), **{"max_steps": 22} | kwargs)

    def _deal(self) -> list[Card]:
        return [draw_card(self.np_random) for _ in range(4)]


def is_held_out(cards: Sequence[Card]) -> bool:
    """Whether a deal belongs to the fifth that `deals="train"` never shows: a matter of its values alone.

    139 of the 715 values of Points24's deals, and 3 and 9 in EZPoints, which has seven.
    """
    return zlib.crc32(" ".join(str(value) for value in sorted(card.value for card in cards)).encode()) % 5 == 0


def _joined(tokens: Sequence[str]) -> list[str]:
    """Numbers that follow one another as one number."""
    joined: list[str] = []
    for token in tokens:
        if joined and token in NUMBERS and joined[-1].isdecimal():
            joined[-1] += token
        else:
            joined.append(token)
    return joined
