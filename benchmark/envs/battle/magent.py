"""Battle of magent2, `battle/magent-map<M>-<opponent>-v1`: two armies on a grid of M x M cells.

The game is battle_v4 of magent2 0.3.4 with its own rewards and start. The suite's agents are the
red (left) army, the opponent in the task's name plays blue: random, rush or focus
(`benchmark.envs.battle.magent_policies`). The map fixes the size of an army: 6 on map 16, 64 on map
40, 1,024 on map 160. An episode ends with an army, or is cut after 200 steps (map 16) or 400.

The only chance in battle_v4 is the order in which blows fall, which its seed decides; it starts
everyone on the same cells. So every opponent but random plays 10% of its actions at random.

Observation, 32 numbers instead of the view of 13 x 13 x 5, all of them seen in the view or counted
over the map (`features`):

    0, 1     own position in [-1, 1]
    2        own hit points, share of 10
    3        share of the horizon that is over
    4, 5     share alive: own army, enemy army
    6, 7     offset to the nearest enemy in view, in units of the view's radius 6; zero if none
    8, 9     enemies and fellows in view (the agent itself included), as shares of an army
    10, 11   offset to the mean position of the living enemies, in units of M
    12 - 23  for each of the 12 moves, in the order of the actions: 1 if the target cell is free
    24 - 31  for each of the 8 attacks, in the order of the actions: hit points of the enemy there,
             share of 10; zero if none

Actions: 0 - 12 move to a cell at most 2 away (6 stays), 13 - 20 attack a neighbouring cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.envs.battle.fighter import Fighter, uniform
from benchmark.envs.battle.magent_policies import ATTACKS, MOVES, NAMES, STAY, fighter
from benchmark.envs.meanfield.game import check_actions
from benchmark.errors import UserError
from benchmark.task import Array, Family, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

HORIZONS = {16: 200, 40: 400, 160: 400}  # steps by map size
OBS_DIM, N_ACTIONS = 32, 21
RADIUS = 6  # of the view
OBSTACLE, OWN, OWN_HP, ENEMY, ENEMY_HP = range(5)  # channels of the view
VIEW = np.array([(x, y) for y in range(-RADIUS, RADIUS + 1) for x in range(-RADIUS, RADIUS + 1)])
VIEW_DISTANCE = (VIEW**2).sum(1)
GOALS = (np.delete(MOVES, STAY, axis=0) + RADIUS) @ (1, 2 * RADIUS + 1)  # rows of VIEW
TARGETS = (ATTACKS + RADIUS) @ (1, 2 * RADIUS + 1)


def army(map_size: int) -> int:
    """Agents a side, as battle_v4 places them: every other cell of a square, walls left out."""
    side = int(math.sqrt(map_size * map_size * 0.04)) * 2
    right, low = map_size // 2 - 3, (map_size - side) // 2
    columns = [x for x in range(right - side, right, 2) if 0 < x < map_size - 1]
    rows = [y for y in range(low, low + side, 2) if 0 < y < map_size - 1]
    return len(columns) * len(rows)


def make_battle(map_size: int) -> Any:
    """magent2's own PettingZoo environment; UserError where magent2 is not installed."""
    try:
        from magent2.environments import battle_v4
    except ImportError as error:
        raise UserError(
            f"battle/magent-map{map_size} needs magent2, which is not installed; install it with"
            " `pip install 'offline-marl-bench[battle]'`."
        ) from error
    return battle_v4.parallel_env(map_size=map_size, max_cycles=HORIZONS[map_size])


def features(view: Array, position: Array, enemies: Array, size: int, facts: Array) -> Array:
    """Observations of one army's living agents: [n, 32] float32.

    view [n, 13, 13, 5] (y, x, channel), own position and the enemies' [n, 2] (x, y), facts: share
    of the horizon that is over, share alive of the own army, of the enemy's; agents of an army.
    """
    over, own_share, enemy_share, n_agents = facts
    obs = np.zeros((len(view), OBS_DIM), np.float32)
    if not len(view):
        return obs
    obs[:, 0:2] = 2 * position / (size - 1) - 1
    obs[:, 2] = view[:, RADIUS, RADIUS, OWN_HP]
    obs[:, 3:6] = over, own_share, enemy_share
    flat = view.reshape(len(view), -1, view.shape[-1])  # [n, 169, 5]
    seen = flat[..., ENEMY] > 0  # [n, 169]
    nearest = np.where(seen, VIEW_DISTANCE, 1_000).argmin(1)
    obs[:, 6:8] = VIEW[nearest] * seen.any(1, keepdims=True) / RADIUS
    obs[:, 8] = seen.sum(1) / n_agents
    obs[:, 9] = (flat[..., OWN] > 0).sum(1) / n_agents
    if len(enemies):
        obs[:, 10:12] = (enemies.mean(0) - position) / size
    goal = flat[:, GOALS]  # [n, 12, 5]
    obs[:, 12:24] = goal[..., OBSTACLE] + goal[..., OWN] + goal[..., ENEMY] == 0
    obs[:, 24:32] = flat[:, TARGETS, ENEMY_HP]
    return obs


class Battle:
    """One battle through the engine's array calls. Army 0 is red, army 1 blue."""

    def __init__(self, map_size: int) -> None:
        self.size, self.horizon, self.n_agents = map_size, HORIZONS[map_size], army(map_size)
        self.outer = make_battle(map_size)
        self.engine, self.handles = self.outer.env, self.outer.handles

    def reset(self, seed: int) -> None:
        """seed: of the engine, below 2^31. Without one it would go on from the last battle's."""
        self.engine.set_seed(seed)
        self.engine.reset()
        self.outer.generate_map()
        self.t = 0
        self.members = [np.arange(self.n_agents) for _ in self.handles]  # the living of each army

    def step(self, act: Sequence[Array]) -> Array:
        """act [N] of each army -> rewards [N] of the red one, float64."""
        for handle, members, own in zip(self.handles, self.members, act, strict=True):
            self.engine.set_action(handle, own[members].astype(np.int32))
        self.engine.step()
        rew = np.zeros(self.n_agents)
        rew[self.members[0]] = self.engine.get_reward(self.handles[0])
        self.engine.clear_dead()
        self.t += 1
        self.members = [
            self.engine.get_agent_id(handle) - k * self.n_agents
            for k, handle in enumerate(self.handles)
        ]
        return rew

    def observe(self, k: int) -> Array:
        """What army k sees: [N, 32] float32, zero for the dead."""
        obs = np.zeros((self.n_agents, OBS_DIM), np.float32)
        view, _ = self.engine.get_observation(self.handles[k])
        obs[self.members[k]] = self.features(k, view)
        return obs

    def features(self, k: int, view: Array) -> Array:
        """Of the living of army k, from their views [n, 13, 13, 5]: [n, 32]."""
        position, enemies = (self.engine.get_pos(self.handles[j]) for j in (k, 1 - k))
        facts = np.array([self.t / self.horizon, self.share(k), self.share(1 - k), self.n_agents])
        return features(view, position, enemies, self.size, facts)

    def share(self, k: int) -> float:
        return len(self.members[k]) / self.n_agents

    def alive(self) -> Array:
        """[N] bool of the red army."""
        alive = np.zeros(self.n_agents, bool)
        alive[self.members[0]] = True
        return alive


class MagentArrays:
    """E battles one after the other; an episode that is over stands still."""

    def __init__(
        self, spec: TaskSpec, map_size: int, opponent: Fighter, battle: type[Battle] = Battle
    ) -> None:
        self.spec, self.map_size, self.opponent, self.battle = spec, map_size, opponent, battle
        self.battles: list[Battle] = []  # kept between resets: a large map takes long to build
        self.minds: list[np.random.Generator] = []

    def reset(self, seeds: Sequence[int]) -> Array:
        """The same start for every seed; what follows differs: obs [E, N, 32]."""
        self.minds = [np.random.default_rng([seed, 0x0BB0]) for seed in seeds]
        while len(self.battles) < len(seeds):
            self.battles.append(self.battle(self.map_size))
        self.battles = self.battles[: len(seeds)]
        for battle, mind in zip(self.battles, self.minds, strict=True):
            battle.reset(int(mind.integers(2**31)))
        self.t = 0
        self.obs = np.stack([battle.observe(0) for battle in self.battles])
        return self.obs.copy()

    def step(self, act: Array) -> Step:
        """act: [E, N] integers in 0 .. 20; those of the dead are moot."""
        if not self.minds or self.t >= self.spec.horizon:
            raise UserError(f"{self.spec.id}: step without a running episode; call reset first.")
        act = np.asarray(act)
        check_actions(self.spec, act, len(self.battles))
        noise = uniform(self.minds, self.spec.n_agents)
        rew = np.zeros(act.shape)
        self.t += 1
        for e, battle in enumerate(self.battles):
            if min(battle.share(0), battle.share(1)) == 0:
                continue
            seen = battle.observe(1) if self.opponent.looks else None
            rew[e] = battle.step((act[e], self.opponent.choose(seen, noise[e])))
            self.obs[e] = battle.observe(0)
        shares = np.array([[battle.share(0), battle.share(1)] for battle in self.battles])  # [E, 2]
        terminated = shares.min(1) == 0
        return Step(
            obs=self.obs.copy(),
            rew=rew,
            terminated=terminated,
            truncated=(self.t == self.spec.horizon) & ~terminated,
            alive=np.stack([battle.alive() for battle in self.battles]),
            outcome=outcome(shares),
        )


def outcome(shares: Array) -> dict[str, Array]:
    """Margin and win of own and enemy shares alive [E, 2]; a draw is half a win."""
    margin = shares[:, 0] - shares[:, 1]
    return {"margin": margin, "win": np.where(margin == 0, 0.5, margin > 0)}


class Magent(Task):
    def __init__(self, map_size: int, opponent: str) -> None:
        self.map_size, self.opponent = map_size, opponent
        self.spec = TaskSpec(
            id=f"battle/magent-map{map_size}-{opponent}-v1",
            groups=(Group("agents", army(map_size), OBS_DIM),),
            horizon=HORIZONS[map_size],
            n_actions=N_ACTIONS,
            exchangeable=True,
            metric="margin",
            can_die=True,
            outcomes=("margin", "win"),
            packages=("magent2", "numpy"),
        )

    def arrays(self, n_envs: int) -> MagentArrays:
        return MagentArrays(self.spec, self.map_size, fighter(self.opponent))

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        """magent2's own environment, the blue army inside, seen through the suite's features."""
        from benchmark.envs.battle.magent_parallel import MagentParallelEnv

        return MagentParallelEnv(self, self.map_size, fighter(self.opponent), render_mode)

    def expert(self) -> Fighter:
        return fighter("focus", noise=0.0)

    def reference_lines(self) -> dict[str, Any]:
        return {"rush": fighter("rush", noise=0.0)}


def _build(match: re.Match[str]) -> Task:
    return Magent(int(match["map"]), match["opponent"])


FAMILY = Family(
    pattern=rf"battle/magent-map(?P<map>16|40|160)-(?P<opponent>{'|'.join(NAMES)})-v1",
    examples=("battle/magent-map16-rush-v1",),
    build=_build,
)
