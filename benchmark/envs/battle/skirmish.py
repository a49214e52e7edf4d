"""Skirmish, `battle/skirmish-n<N>-<opponent>-v1`: two teams of N on a grid of 16 x 16 cells.

The suite's agents are the left team, the opponent in the task's name plays the right one: random,
hold, rush or expert (see `benchmark.envs.battle.skirmish_policies`). Any number of agents may share
a cell.

A step: first everyone moves, then everyone strikes at once. An agent in cell c that attacks aims at
all E(c) enemies in c and its four neighbours, and spreads an expected damage of 0.6 evenly over
them. An enemy loses a Poisson number of its 3 lives, whose mean is the sum of what is aimed at it.
With one cell and one life this is Lanchester's law of aimed fire: A' = A exp(-p B / A).

Rewards of an agent that was alive before the step: -0.005, +0.12 for an attack with an enemy in
reach, -0.1 for one without, -0.1 for dying, and at the end the margin, which is the task's metric:
own minus enemy share of agents alive. Nobody observes or earns anything after dying.

Observation, 18 numbers; densities count agents in units of N / 64, the mean of a start band:

    0, 1     own position, x and y in [-1, 1]
    2        own lives, share of 3
    3        share of the 50 steps that are over
    4, 5     share alive: own team, enemy team
    6, 7     offset to the nearest cell with an enemy (first by distance, then by x, then y), in
             units of 16 cells; zero if there is none
    8 - 12   density of the own team here, left, right, below, above (zero beyond the edge)
    13 - 17  density of the enemies in the same five cells, which are the cells in reach

The right team sees and plays the mirror image, so that one policy can lead either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.battle.fighter import Fighter, uniform
from benchmark.envs.battle.skirmish_policies import (
    ATTACK,
    DOWN,
    LEFT,
    NAMES,
    RIGHT,
    STAY,
    UP,
    fighter,
)
from benchmark.envs.meanfield.game import MAX_AGENTS, check_actions
from benchmark.errors import UserError
from benchmark.task import Array, Family, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

MIRRORED = np.array([STAY, RIGHT, LEFT, DOWN, UP, ATTACK])
HORIZON = 50
OBS_DIM = 18
STEP, HIT, MISS, DEATH = -0.005, 0.2, -0.1, -0.1  # rewards; HIT is per unit of expected damage


@dataclass(frozen=True)
class Rules:
    side: int = 16  # cells along each edge of the field, at most 20
    lives: int = 3  # hits that an agent stands, the last included
    strength: float = 0.6  # expected damage of one attack


def around(grid: Array) -> Array:
    """Sum over each cell and its four neighbours: [E, L, L] -> [E, L, L]."""
    total = grid.copy()
    total[:, 1:] += grid[:, :-1]
    total[:, :-1] += grid[:, 1:]
    total[:, :, 1:] += grid[:, :, :-1]
    total[:, :, :-1] += grid[:, :, 1:]
    return total


def nearest(occupied: Array) -> tuple[Array, Array]:
    """Offset (dx, dy) from each cell to the nearest occupied one, zero if there is none.

    occupied [E, L, L] bool. Distance is |dx| + |dy|, ties go to the lowest x, then y.
    """
    side = occupied.shape[1]
    steps = np.arange(side, dtype=np.int16)
    apart = np.abs(steps[:, None] - steps) * side**2  # [L', L]
    never = np.int16(1 << 14)
    # Distance and place in one number, so that the least number is the nearest, ties broken. First
    # along y inside each column, then over columns.
    shut = np.where(occupied, steps, never)  # [E, x, y']
    column = np.full(occupied.shape, 32_767, np.int16)  # [E, x', y]
    for j in range(side):
        np.minimum(column, shut[:, :, j, None] + apart[j], out=column)
    column += side * steps[:, None]
    key = np.full(occupied.shape, 32_767, np.int16)  # [E, x, y]
    for j in range(side):
        np.minimum(key, column[:, j, None] + apart[j][:, None], out=key)
    x, y = np.divmod(key % side**2, side)
    some = occupied.any((1, 2), keepdims=True)
    return np.where(some, x - steps[:, None], 0), np.where(some, y - steps, 0)


class Melee:
    """The rules for E battles in lockstep; all chance comes in as uniform noise."""

    def __init__(self, sizes: tuple[int, int], rules: Rules) -> None:
        self.sizes, self.rules = sizes, rules
        self.n_cells = rules.side**2
        x, y = np.divmod(np.arange(self.n_cells), rules.side)
        goals = np.tile(np.arange(self.n_cells), (6, 1))  # [action, cell]
        top = rules.side - 1
        goals[LEFT], goals[RIGHT] = np.maximum(x - 1, 0), np.minimum(x + 1, top)
        goals[LEFT:DOWN] = goals[LEFT:DOWN] * rules.side + y
        goals[DOWN], goals[UP] = np.maximum(y - 1, 0), np.minimum(y + 1, top)
        goals[DOWN:ATTACK] += x * rules.side
        self.goals = goals.ravel()

    def place(self, cells: Sequence[Array]) -> None:
        """Start from the given cells x * side + y, [E, n] of each team."""
        self.n_envs = len(cells[0])
        first = np.arange(self.n_envs)[:, None] * self.n_cells
        self.first = first  # [E, 1], a battle's first cell in flat grids
        self.cell = [np.array(cell, np.intp) for cell in cells]  # [E, n] of each team
        self.lives = [np.full(cell.shape, self.rules.lives, np.int8) for cell in cells]  # [E, n]
        self.alive = [lives > 0 for lives in self.lives]  # [E, n]
        self._count()

    def step(self, act: Sequence[Array], noise: Sequence[Array]) -> None:
        """act [E, n] in 0 .. 5 and noise [E, n] float32 in [0, 1) of each team."""
        for k in (0, 1):
            steps = np.where(self.alive[k], act[k], STAY)
            self.cell[k] = self.goals[steps * self.n_cells + self.cell[k]]
        self._count()
        self.aims = self.reach
        hazard = []  # of each team [E * C]: expected damage of an agent in the cell
        for k in (0, 1):
            fires = self.alive[k] & (act[k] == ATTACK)
            aimed = self.grid(k, fires) * self.rules.strength
            hazard.append(around(aimed / np.maximum(self.reach[k], 1)).ravel())
        for k in (0, 1):
            self._strike(k, hazard[1 - k], noise[k])
        self._count()

    def _strike(self, k: int, hazard: Array, noise: Array) -> None:
        """Poisson damage by inversion; damage beyond an agent's lives is nothing more."""
        at = self.first + self.cell[k]  # [E, n]
        term = np.exp(-hazard)
        level = np.zeros_like(hazard)
        damage = np.zeros(at.shape, np.int8)
        for hits in range(self.rules.lives):
            level += term
            damage += noise >= level.astype(np.float32)[at]
            term *= hazard / (hits + 1)
        self.lives[k] = np.maximum(self.lives[k] - damage, 0)
        self.alive[k] = self.lives[k] > 0

    def _count(self) -> None:
        self.living = [self.grid(k, self.alive[k]) for k in (0, 1)]  # [E, L, L] of each team
        self.reach = [around(self.living[1 - k]) for k in (0, 1)]  # enemies in reach of each cell

    def grid(self, k: int, which: Array) -> Array:
        """Number of team k's agents in each cell, those of `which` [E, n] only: [E, L, L]."""
        at = (self.first + self.cell[k])[which]
        counts = np.bincount(at, minlength=self.n_envs * self.n_cells)
        return counts.reshape(self.n_envs, self.rules.side, self.rules.side)

    def shares(self) -> tuple[Array, Array]:
        """Share alive of each team, [E] each."""
        return self.alive[0].mean(1), self.alive[1].mean(1)

    def observe(self, k: int, over: float) -> Array:
        """What team k sees, [E, n, 18] float32; over: the share of the episode that is over."""
        side, turn = self.rules.side, slice(None, None, 1 if k == 0 else -1)
        x, y = np.divmod(self.cell[k], side)  # [E, n]
        if k == 1:
            x = side - 1 - x
        obs = np.zeros((*x.shape, OBS_DIM), np.float32)
        place = np.linspace(-1, 1, side, dtype=np.float32)
        obs[..., 0], obs[..., 1] = place[x], place[y]
        obs[..., 2] = self.lives[k] * np.float32(1 / self.rules.lives)
        obs[..., 3] = over
        shares = self.shares()
        obs[..., 4], obs[..., 5] = shares[k][:, None], shares[1 - k][:, None]
        own, enemy = (self.living[j][:, turn] for j in (k, 1 - k))  # [E, x, y]
        at = self.first + x * side + y  # [E, n]
        for column, offset in zip((6, 7), nearest(enemy > 0), strict=True):
            obs[..., column] = (offset * np.float32(1 / side)).ravel()[at]
        wide = side + 2  # with an empty cell around the field, every cell has four neighbours
        at = (np.arange(self.n_envs)[:, None] * wide + x + 1) * wide + y + 1
        for first, grid, size in ((8, own, self.sizes[k]), (13, enemy, self.sizes[1 - k])):
            density = np.zeros((self.n_envs, wide, wide), np.float32)
            density[:, 1:-1, 1:-1] = grid * (64 / size)
            for action, beside in zip(range(5), (0, -wide, wide, -1, 1), strict=True):
                obs[..., first + action] = density.ravel()[at + beside]
        obs[~self.alive[k]] = 0
        return obs


class SkirmishArrays:
    """E episodes in lockstep. Each has one stream for chance and one for its opponent."""

    def __init__(self, spec: TaskSpec, opponent: Fighter) -> None:
        self.spec, self.opponent = spec, opponent
        self.melee = Melee((spec.n_agents, spec.n_agents), Rules())
        self.t = HORIZON

    def reset(self, seeds: Sequence[int]) -> Array:
        """Each team on random cells of a band of four columns at its side: obs [E, N, 18]."""
        n, side = self.spec.n_agents, self.melee.rules.side
        self.t = 0
        self.chance = [np.random.default_rng([seed, 0xBA77]) for seed in seeds]
        self.mind = [np.random.default_rng([seed, 0x0BB0]) for seed in seeds]
        band = side // 4 * side
        left = np.stack([rng.integers(band, size=2 * n) for rng in self.chance])  # [E, 2 N]
        x, y = np.divmod(left[:, n:], side)
        self.melee.place((left[:, :n], (side - 1 - x) * side + y))
        return self.melee.observe(0, 0.0)

    def step(self, act: Array) -> Step:
        """act: [E, N] integers: stay, left, right, down, up, attack; those of the dead are moot."""
        n, melee = self.spec.n_agents, self.melee
        if self.t >= HORIZON:
            raise UserError(f"{self.spec.id}: step without a running episode; call reset first.")
        act = np.asarray(act)
        check_actions(self.spec, act, melee.n_envs)
        seen = melee.observe(1, self.t / HORIZON) if self.opponent.looks else None
        reply = MIRRORED[self.opponent.choose(seen, uniform(self.mind, n))]  # [E, N]
        noise = uniform(self.chance, 2 * n)
        before = melee.alive[0]
        melee.step((act, reply), (noise[:, :n], noise[:, n:]))
        self.t += 1
        own, enemy = melee.shares()
        terminated = (own == 0) | (enemy == 0)
        truncated = np.full(melee.n_envs, self.t == HORIZON) & ~terminated
        margin = own - enemy
        rew = self._reward(act, before)
        rew += before * np.where(terminated | truncated, margin, 0.0)[:, None]
        win = np.where(margin == 0, 0.5, margin > 0)
        return Step(
            obs=melee.observe(0, self.t / HORIZON),
            rew=rew,
            terminated=terminated,
            truncated=truncated,
            alive=melee.alive[0],
            outcome={"margin": margin, "win": win},
        )

    def in_reach(self) -> Array:
        """Whether an agent's attack of the last step had enemies in reach: [E, N] bool."""
        melee = self.melee
        return melee.aims[0].ravel()[melee.first + melee.cell[0]] > 0

    def _reward(self, act: Array, before: Array) -> Array:
        """Everything but the margin at the end: act, alive before the step [E, N] -> [E, N]."""
        melee = self.melee
        attack = np.where(self.in_reach(), HIT * melee.rules.strength, MISS)
        rew = STEP + np.where(act == ATTACK, attack, 0.0) + np.where(melee.alive[0], 0.0, DEATH)
        return rew * before


class Skirmish(Task):
    def __init__(self, n_agents: int, opponent: str) -> None:
        self.opponent = opponent
        self.spec = TaskSpec(
            id=f"battle/skirmish-n{n_agents}-{opponent}-v1",
            groups=(Group("agents", n_agents, OBS_DIM),),
            horizon=HORIZON,
            n_actions=6,
            exchangeable=True,
            metric="margin",
            deterministic_eval=False,
            can_die=True,
            outcomes=("margin", "win"),
            packages=("numpy",),
        )

    def arrays(self, n_envs: int) -> SkirmishArrays:
        return SkirmishArrays(self.spec, fighter(self.opponent))

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        from benchmark.envs.parallel import ArrayParallelEnv

        return ArrayParallelEnv(self, render_mode)

    def expert(self) -> Fighter:
        """The committed policy; see `datasets/recipes/train_skirmish.py`."""
        return fighter("expert")

    def reference_lines(self) -> dict[str, Any]:
        return {name: fighter(name) for name in ("hold", "rush")}


def _build(match: re.Match[str]) -> Task:
    return Skirmish(int(match["n"]), match["opponent"])


FAMILY = Family(
    pattern=rf"battle/skirmish-n(?P<n>{MAX_AGENTS})-(?P<opponent>{'|'.join(NAMES)})-v1",
    examples=("battle/skirmish-n64-rush-v1", "battle/skirmish-n1024-rush-v1"),
    build=_build,
)
