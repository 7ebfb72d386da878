# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Scripted BabyAI agents of graded quality, built on minigrid's own planner."""

import numpy as np
from minigrid.core.actions import Actions
from minigrid.core.world_object import WorldObj
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.envs.babyai.core.verifier import OBJ_TYPES, GoToInstr, Instr, ObjDesc, SeqInstr
from minigrid.utils.baby_ai_bot import BabyAIBot

from trl_vlmq.envs.babyai import ACTIONS, BabyAIEnv
from trl_vlmq.envs.text_action import BehaviorUnavailableError


WORDS = {action: word for word, action in ACTIONS.items()}

NOISE = 0.3  # share of random actions of `noisy_expert`

# Subgoals that the planner may push in one step. Over four episodes of every level it pushed 10 at most, or hung.
PLANNING_BUDGET = 1000


class PlanningHangError(RuntimeError):
    """The planner went round in circles."""


class Planner(BabyAIBot):
    """
    Minigrid's bot, with a watchdog and, if asked for, with another instruction than the mission's.

    `replan` of the original can loop for ever. Each round of that loop that does not end it either pops a subgoal or
    pushes some, so counting the pushes is enough to stop it, in any thread, and at the same step on every machine.

    Args:
        level (`RoomGridLevel`):
            The level, after a reset. It is only read.
        instruction (`Instr`, *optional*):
            What to do, by default the mission. Its object descriptions must have been matched.
    """

    def __init__(self, level: RoomGridLevel, instruction: Instr | None = None):
        super().__init__(level)
        self.stack = _BudgetedStack()
        self._process_instr(level.instrs if instruction is None else instruction)

    def replan(self, action_taken: Actions | None = None) -> Actions:
        self.stack.pushes = 0
        return super().replan(action_taken)


class _BudgetedStack(list):
    pushes = 0

    def append(self, subgoal) -> None:
        self.pushes += 1
        if self.pushes > PLANNING_BUDGET:
            raise PlanningHangError(f"{PLANNING_BUDGET} subgoals in one step.")
        super().append(subgoal)


class _PlannedBehavior:
    """
    What the behaviours share: follow a planner, and act at random for the rest of the episode once it fails.

    Attributes:
        failed (`bool`):
            Whether the planner hung, raised or gave up.
    """

    planner: Planner

    def __init__(self, env: BabyAIEnv, rng: np.random.Generator):
        self.env, self.level, self.rng = env, env.level, rng
        self.failed = False
        self._grid = self.level.grid
        self._has_acted = False

    def act(self) -> str:
        if self.level.grid is not self._grid:
            raise RuntimeError("This behavior's episode is over: make another one after each reset.")
        return self.env.write(self._choose())

    def _choose(self) -> str:
        raise NotImplementedError

    def _random_action(self) -> str:
        return self.env.draw_legal_action(self.rng)

    def _plan(self) -> Actions | None:
        """The next planned action (`Actions.done` where there is nothing left to do), or `None` after a failure."""
        if self.failed:
            return None
        taken = None
        if self._has_acted:
            # What really happened, which need not be what this behaviour said. Nothing at all is `done` to minigrid.
            executed = self.env.executed_action
            taken = Actions.done if executed is None else ACTIONS[executed]
        self._has_acted = True
        try:
            return self.planner.replan(taken)
        except Exception:  # assertions, lookups, an opened box, the watchdog: all mean that it cannot go on
            self.failed = True
            return None


class Expert(_PlannedBehavior):
    """
    Follows minigrid's planner.

    Args:
        env ([`~trl_vlmq.envs.babyai.BabyAIEnv`]):
            The environment, after a reset.
        rng (`numpy.random.Generator`):
            Source of all randomness.
        epsilon (`float`, *optional*, defaults to `0.0`):
            Probability of a random action in place of the planned one. The planner learns of it and plans anew.
    """

    def __init__(self, env: BabyAIEnv, rng: np.random.Generator, epsilon: float = 0.0):
        super().__init__(env, rng)
        self.epsilon = epsilon
        self.planner = Planner(self.level)

    def _choose(self) -> str:
        planned = self._plan()
        if planned == Actions.done:  # had the mission been accomplished, the episode would be over
            self.failed = True
        if self.failed or (self.epsilon > 0 and self.rng.random() < self.epsilon):
            return self._random_action()
        return WORDS[planned]


class WrongGoal(_PlannedBehavior):
    """
    Competent but mistaken: walks to an object of a type and colour that the mission does not name, and stays.

    It stays by going forward against the object, which changes nothing. All along it keeps from facing an object that
    the mission does name, as far as one action can tell: in a small room it would otherwise succeed by accident as
    often as the random agent.

    Args:
        env ([`~trl_vlmq.envs.babyai.BabyAIEnv`]):
            The environment, after a reset.
        rng (`numpy.random.Generator`):
            Source of all randomness.

    Attributes:
        target (`WorldObj`):
            Where it goes.

    Raises:
        BehaviorUnavailableError: the mission names every object that there is.
    """

    def __init__(self, env: BabyAIEnv, rng: np.random.Generator):
        super().__init__(env, rng)
        candidates = self._candidates()
        if not candidates:
            raise BehaviorUnavailableError(
                f"{env.level_id}: 'wrong_goal' needs an object other than those of the mission, and in this episode "
                f"({self.level.mission!r}) there is none: use another seed or a level with distractors."
            )
        self.target: WorldObj = candidates[int(rng.integers(len(candidates)))]
        # This very object, not its namesakes. The planner explores until it sees it.
        self._description = ObjDesc(self.target.type, self.target.color)
        self._description.obj_set = [self.target]
        self._description.find_matching_objs(self.level, use_location=False)
        self.planner = Planner(self.level, GoToInstr(self._description))

    def _choose(self) -> str:
        planned = self._walk()
        if planned is not None and not self._would_face_named(planned):
            return WORDS[planned]
        safe = [word for word in self.env.legal_actions() if not self._would_face_named(ACTIONS[word])]
        return safe[int(self.rng.integers(len(safe)))] if safe else self._random_action()

    def _walk(self) -> Actions | None:
        """The next action towards the target, forward once it is there, or `None` if the planner failed."""
        self._description.find_matching_objs(self.level, use_location=False)  # things may have been moved
        planned = self._plan()
        if planned != Actions.done:
            return planned
        if self.level.grid.get(*self.level.front_pos) is self.target:
            return Actions.forward
        self.failed = True
        return None

    def _would_face_named(self, action: Actions) -> bool:
        """Whether the mission names what is in front of the agent after `action`."""
        level = self.level
        position, ahead, right = np.asarray(level.agent_pos), level.dir_vec, level.right_vec
        front = position + ahead
        if action in (Actions.left, Actions.right):
            front = position + (right if action == Actions.right else -right)
        elif action == Actions.forward:
            cell = level.grid.get(*front)
            if cell is None or cell.can_overlap():
                front = front + ahead
        cell = (
            level.grid.get(*front) if 0 <= front[0] < level.grid.width and 0 <= front[1] < level.grid.height else None
        )
        return cell is not None and cell.type in OBJ_TYPES and self._is_named(cell)

    def _candidates(self) -> list[WorldObj]:
        cells = self.level.grid.grid
        return [cell for cell in cells if cell is not None and cell.type in OBJ_TYPES and not self._is_named(cell)]

    def _is_named(self, thing: WorldObj) -> bool:
        """Whether some description in the mission fits, its words of place left aside."""
        return any(
            description.type in (None, thing.type) and description.color in (None, thing.color)
            for description in _descriptions(self.level.instrs)
        )


def _descriptions(instruction: Instr) -> list[ObjDesc]:
    """The object descriptions in an instruction."""
    if isinstance(instruction, SeqInstr):
        return _descriptions(instruction.instr_a) + _descriptions(instruction.instr_b)
    return [getattr(instruction, name) for name in ("desc", "desc_move", "desc_fixed") if hasattr(instruction, name)]
