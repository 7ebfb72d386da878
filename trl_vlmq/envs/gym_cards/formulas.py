# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Formulas of numbers, exactly: evaluation in rational arithmetic and a solver.

A formula is a list of tokens: numbers, `+ - * /` and parentheses. Numbers have no sign. Nothing is ever passed to `eval`.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache

import numpy as np


OPERATORS = ("+", "-", "*", "/")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}


def evaluate(tokens: Sequence[str]) -> Fraction | None:
    """
    The exact value of a formula.

    Args:
        tokens (`Sequence[str]`):
            Such as `["8", "/", "(", "3", "-", "8", "/", "3", ")"]`, which is 24.

    Returns:
        `None` if the formula is not well-formed or divides by zero.
    """
    values: list[Fraction] = []
    waiting: list[str] = []

    def apply() -> None:
        operator, right, left = waiting.pop(), values.pop(), values.pop()
        values.append(combine(left, operator, right))

    expects_value = True
    try:
        for token in tokens:
            if expects_value and token == "(":
                waiting.append(token)
            elif expects_value and token.isdecimal():
                values.append(Fraction(token))
                expects_value = False
            elif not expects_value and token in _PRECEDENCE:
                while waiting and waiting[-1] != "(" and _PRECEDENCE[waiting[-1]] >= _PRECEDENCE[token]:
                    apply()
                waiting.append(token)
                expects_value = True
            elif not expects_value and token == ")" and "(" in waiting:
                while waiting[-1] != "(":
                    apply()
                waiting.pop()
            else:
                return None
        if expects_value or "(" in waiting:
            return None
        while waiting:
            apply()
    except ZeroDivisionError:
        return None
    return values[0]


def combine(left: Fraction, operator: str, right: Fraction) -> Fraction:
    """One operation."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right


def may_follow(tokens: Sequence[str], operators: Sequence[str], unused: int) -> list[str]:
    """
    Operators and parentheses after which the formula can still become well-formed, `"="` included where it is
    complete; `"number"` stands for every number.

    Args:
        tokens (`Sequence[str]`):
            A beginning of a well-formed formula.
        operators (`Sequence[str]`):
            Those of the game, perhaps with `"("` and `")"`.
        unused (`int`):
            Numbers that are left.
    """
    open_parentheses = tokens.count("(") - tokens.count(")")
    if not tokens or tokens[-1] in OPERATORS or tokens[-1] == "(":
        # A parenthesis around one number is good for nothing.
        return (["number"] if unused else []) + (["("] if "(" in operators and unused > 1 else [])
    allowed = [operator for operator in operators if operator in OPERATORS] if unused else []
    if open_parentheses:
        return [*allowed, ")"]
    return [*allowed, "="]


@cache
def solutions(
    numbers: tuple[int, ...], target: int, operators: tuple[str, ...] = OPERATORS
) -> tuple[tuple[str, ...], ...]:
    """
    The formulas that use every number exactly once and equal the target, with no more parentheses than they need.

    Terms of a sum or a product are not listed in every order.

    Args:
        numbers (`tuple[int, ...]`):
            In ascending order.
        target (`int`):
            What to make.
        operators (`tuple[str, ...]`, *optional*):
            Those allowed.

    Returns:
        Their tokens, the shortest first; empty if there is none.
    """
    leaves = [(Fraction(number), (str(number),), 3) for number in numbers]
    found = {tokens for value, tokens in _combinations(leaves, operators) if value == target}
    return tuple(sorted(found, key=lambda tokens: (len(tokens), tokens)))


def random_formula(numbers: Sequence[int], operators: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """A well-formed formula of all numbers, joined two by two at random. It may divide by zero."""
    terms = [((str(number),), 3) for number in numbers]
    while len(terms) > 1:
        left, right = (terms.pop(int(rng.integers(len(terms)))) for _ in range(2))
        terms.append(_join(left, operators[int(rng.integers(len(operators)))], right))
    return terms[0][0]


def _combinations(
    terms: list[tuple[Fraction, tuple[str, ...], int]], operators: Sequence[str]
) -> Iterator[tuple[Fraction, tuple[str, ...]]]:
    """Every way of joining two terms, and so on until one is left. A term is (value, tokens, precedence)."""
    if len(terms) == 1:
        yield terms[0][:2]
        return
    for i, left in enumerate(terms):
        for j, right in enumerate(terms):
            if i == j:
                continue
            rest = [term for k, term in enumerate(terms) if k not in (i, j)]
            for operator in operators:
                if (operator in "+*" and i > j) or (operator == "/" and right[0] == 0):
                    continue
                value = combine(left[0], operator, right[0])
                yield from _combinations([(value, *_join(left[1:], operator, right[1:])), *rest], operators)


def _join(
    left: tuple[tuple[str, ...], int], operator: str, right: tuple[tuple[str, ...], int]
) -> tuple[tuple[str, ...], int]:
    """Tokens and precedence of an operation on two terms."""
    precedence = _PRECEDENCE[operator]
    first = left[0] if left[1] >= precedence else ("(", *left[0], ")")
    # a - (b + c) and a / (b * c) need their parentheses, a + (b - c) and a * (b / c) do not.
    plain = right[1] > precedence or (right[1] == precedence and operator in "+*")
    second = right[0] if plain else ("(", *right[0], ")")
    return (*first, operator, *second), precedence
