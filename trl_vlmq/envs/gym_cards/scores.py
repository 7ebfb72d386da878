# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Scores that can be compared between games."""


def normalised_score(score: float, *, random: float, optimal: float) -> float:
    """
    0 for the random policy, 1 for the best there is: (score - random) / (optimal - random).

    Args:
        score (`float`):
            A success rate or a mean return.
        random (`float`):
            That of the random policy.
        optimal (`float`):
            That of the best policy.

    Raises:
        ValueError: `optimal` is not above `random`.
    """
    if not optimal > random:
        raise ValueError(f"optimal={optimal} must be above random={random}.")
    return (score - random) / (optimal - random)
