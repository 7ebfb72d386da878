# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
Gym Cards: NumberLine, EZPoints, Points24 and Blackjack in pictures.

The games and their rules are RL4VLM's (arXiv 2405.10292); code and pictures are ours. Differences: `reset(seed=)`
decides everything, every card is in the picture, formulas are exact fractions and digits are not joined, an action that
is not understood costs a point instead of becoming a random one, and an episode that runs out of time is truncated
without a cost of its own.
"""

from .blackjack import BlackjackEnv
from .card_env import GymCardsEnv
from .number_line import NumberLineEnv
from .points import EZPointsEnv, Points24Env, PointsEnv


__all__ = ["BlackjackEnv", "EZPointsEnv", "GymCardsEnv", "NumberLineEnv", "Points24Env", "PointsEnv"]
