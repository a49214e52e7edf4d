"""Coordination probes: one-step games of a few agents whose right answer is known.

One decision from a constant observation; all agents are paid the same. Every probe names its
*modes*, the joint actions that its datasets are built around (`datasets/recipes/probe.py`).

probe/bandit-v1     2 agents, continuous, r = a_0 a_1. Modes (.8, .8) and (-.8, -.8). Right answer:
                    +-(1, 1), which pays 1. A learner that averages the modes plays (0, 0) and is
                    paid 0, as is one whose agents pick modes on their own, on average. The bandit
                    is that of the OMSD line of work.
probe/modes-nN-v1   N = 2 .. 6 agents, two actions, r = 1 where all N agree, else 0. Modes: all 0
                    and all 1. Imitation by agents that act independently is uniform, at a total
                    variation of 1 - 2^(1 - N) from the two-mode data, and is paid 2^(1 - N).
probe/xor-v1        2 agents, two actions, r = 1 where they differ. Modes (0, 1) and (1, 0), the two
                    answers that pay 1. Independent imitation is uniform and is paid 1/2.
probe/mne-v1        2 agents, two actions, paid by STAG_HUNT: two pure equilibria, and the mixed
                    tier's data favour the poor one. Right answer: (0, 0), which pays 1. In those
                    data an agent that answers the other's logged behaviour prefers action 1, and at
                    (1, 1) no agent gains alone, so that independent learners stay at 0.5.

XOR and M-NE (a game of multiple Nash equilibria) are the test problems of InSPO; its payoff tables
could not be read, so the tables here are ours. Since a mixed strategy is what is probed, discrete
probes evaluate the sampled policy. The episode terminates: there is no next value to bootstrap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.envs.meanfield.game import check_actions
from benchmark.errors import UserError
from benchmark.task import Array, Family, Group, Step, Task, TaskSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

STAG_HUNT = np.array([[1.0, -1.0], [-1.0, 0.5]])  # [a_0, a_1]
MODE = 0.8  # distance of the bandit's modes from 0, in both actions


class ProbeTask(Task):
    """A one-step game. `payoff` is [A] * N where actions are discrete, None for the bandit."""

    def __init__(self, id: str, payoff: Array | None, modes: Sequence[Sequence[float]]) -> None:
        self.payoff, self.modes = payoff, np.array(modes)  # modes [M, N]
        discrete = payoff is not None
        self.spec = TaskSpec(
            id=id,
            groups=(Group("agents", len(modes[0]), obs_dim=1, act_dim=0 if discrete else 1),),
            horizon=1,
            n_actions=2 if discrete else None,
            n_obs=1 if discrete else None,
            deterministic_eval=not discrete,
            packages=("numpy",),
        )

    def pay(self, act: Array) -> Array:
        """Reward of joint actions: [E, N] integers, or [E, N, 1] floats -> [E]."""
        if self.payoff is None:
            return act[:, 0, 0] * act[:, 1, 0]
        paid: Array = self.payoff[tuple(act.T)]
        return paid

    def best(self) -> Array:
        """The joint action that pays most (the bandit has two, this one and its negative): [N]."""
        if self.payoff is None:
            return np.ones(2)
        return np.array(np.unravel_index(self.payoff.argmax(), self.payoff.shape))

    def arrays(self, n_envs: int) -> ProbeArrays:
        return ProbeArrays(self)

    def parallel_env(self, render_mode: str | None = None) -> ParallelEnv:
        from benchmark.envs.parallel import ArrayParallelEnv

        return ArrayParallelEnv(self, render_mode)

    def expert(self) -> Constant:
        return Constant(self.spec, self.best())

    def reference_lines(self) -> dict[str, Constant]:
        """What the other of the data's modes pays, where that is less than the best."""
        worst = min(self.modes, key=lambda mode: float(self.pay(_joint(self.spec, mode, 1))[0]))
        paid, best = (self.pay(_joint(self.spec, mode, 1))[0] for mode in (worst, self.best()))
        return {"mode of the data": Constant(self.spec, worst)} if paid < best else {}


class ProbeArrays:
    """E one-step episodes; nothing is random, so that seeds only count them."""

    def __init__(self, task: ProbeTask) -> None:
        self.task, self.n_envs = task, 0

    def reset(self, seeds: Sequence[int]) -> Array:
        """The constant observation: 0 where finite, else 1, [E, N, 1]."""
        self.n_envs = len(seeds)
        return self._obs()

    def step(self, act: Array) -> Step:
        spec, n_envs = self.task.spec, self.n_envs
        if not n_envs:
            raise UserError(f"{spec.id}: step without a running episode; call reset first.")
        act = np.asarray(act)
        if spec.discrete:
            check_actions(spec, act, n_envs)
        elif act.shape != (n_envs, spec.n_agents, 1):
            raise UserError(
                f"{spec.id}: actions have the shape {act.shape}, expected"
                f" {(n_envs, spec.n_agents, 1)} = (episodes, agents, 1)."
            )
        paid = self.task.pay(act if spec.discrete else np.clip(act, -1, 1).astype(np.float64))
        obs = self._obs()
        self.n_envs = 0
        rew = np.repeat(paid[:, None], spec.n_agents, axis=1)  # [E, N]
        return Step(obs, rew, np.ones(n_envs, bool), np.zeros(n_envs, bool))

    def _obs(self) -> Array:
        shape = (self.n_envs, self.task.spec.n_agents, 1)
        return np.zeros(shape, np.int64) if self.task.spec.finite else np.ones(shape, np.float32)


class Constant:
    """Always the same joint action [N]; keeps the protocol `benchmark.evaluate.Policy`."""

    def __init__(self, spec: TaskSpec, action: Array) -> None:
        self.spec, self.action = spec, action

    def begin(self, n_envs: int, seed: int) -> None:
        """Nothing to draw."""

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        return _joint(self.spec, self.action, len(obs))


def _joint(spec: TaskSpec, action: Array, n_envs: int) -> Array:
    """A joint action [N] as E episodes take it: [E, N] integers or [E, N, 1] floats."""
    rows = np.broadcast_to(action, (n_envs, spec.n_agents))
    return rows.astype(np.int64) if spec.discrete else rows[..., None].astype(np.float32)


# ------------------------------------------------------------------------- what the right answer is
def joint_law(act: Array) -> Array:
    """Share of each joint action in act: [E, N] integers in {0, 1}, or [E, N, 1] floats, of which
    the sign counts (0 below 0, 1 from 0 up) -> [2] * N.
    """
    cells = np.asarray(act)
    if cells.ndim == 3:
        cells = (cells[..., 0] >= 0).astype(np.int64)
    n_agents = cells.shape[1]
    codes = cells @ (1 << np.arange(n_agents)[::-1])
    law = np.bincount(codes, minlength=1 << n_agents) / len(cells)
    return law.reshape((2,) * n_agents)


def factorised(law: Array) -> Array:
    """The product of a joint law's marginals, which is the best that independent agents can do to
    imitate it (in likelihood): [A] * N -> [A] * N.
    """
    product = np.ones(())
    for i in range(law.ndim):
        product = np.multiply.outer(product, law.sum(axis=tuple(set(range(law.ndim)) - {i})))
    return product


def total_variation(p: Array, q: Array) -> float:
    """Half the L1 distance of two laws of equal shape."""
    return float(np.abs(p - q).sum() / 2)


def factorised_distance(n_agents: int) -> float:
    """1 - 2^(1 - N): distance of independent imitation from two-mode data of N agents."""
    return 1.0 - 2.0 ** (1 - n_agents)


def pure_equilibria(payoff: Array) -> list[tuple[int, ...]]:
    """Joint actions at which no agent alone can be paid strictly more, best paid first."""
    stable = [payoff >= payoff.max(axis=i, keepdims=True) for i in range(payoff.ndim)]
    found = [tuple(int(a) for a in joint) for joint in np.argwhere(np.all(stable, axis=0))]
    return sorted(found, key=lambda joint: -float(payoff[joint]))


# ---------------------------------------------------------------------------------------- the tasks
def _agreement(n_agents: int) -> Array:
    payoff = np.zeros((2,) * n_agents)
    payoff[(0,) * n_agents] = payoff[(1,) * n_agents] = 1.0
    return payoff


def _build(match: re.Match[str]) -> Task:
    if match["n"]:
        n = int(match["n"])
        return ProbeTask(match[0], _agreement(n), [(0,) * n, (1,) * n])
    if match["game"] == "bandit":
        return ProbeTask(match[0], None, [(MODE, MODE), (-MODE, -MODE)])
    if match["game"] == "xor":
        return ProbeTask(match[0], 1.0 - np.eye(2), [(0, 1), (1, 0)])
    return ProbeTask(match[0], STAG_HUNT, [(1, 1), (0, 0)])


FAMILY = Family(
    pattern=r"probe/(?P<game>bandit|xor|mne|modes-n(?P<n>[2-6]))-v1",
    examples=(
        "probe/bandit-v1",
        "probe/xor-v1",
        "probe/mne-v1",
        *(f"probe/modes-n{n}-v1" for n in range(2, 7)),
    ),
    build=_build,
)
