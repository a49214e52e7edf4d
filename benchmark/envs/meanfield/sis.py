"""SIS epidemic among N agents: go out and risk infection, or stay in and pay for it. A hard case.

An agent is susceptible (0) or infected (1) and goes out (0) or stays in (1). Going out, a
susceptible agent is infected with probability 0.81 mu(1), where mu(1) is the share of infected; an
infected agent recovers with probability 0.3. Being infected costs 1 a step, staying in 0.5. There
are 50 steps, and 60% are infected at first.

The game is that of Cui and Koeppl (arXiv:2102.01585). It is not monotone: it has a great many
equilibria, of different values, mirror descent and fictitious play find none of them, and the
reference is only one. So its return is no measure of anything. What ranks is exploitability, which
is exact for any policy, as a share of that of uniform play.

An equilibrium is here found backwards in time. Let x be mu(1) and d the loss of value by infection.
Staying in pays where 0.81 x d > 0.5, so each step is one of three: all susceptible go out (U), none
does (D), or a share does (M) and 0.81 x d = 0.5. Given x and d after a step, its letter determines
both before it, and often several letters are possible. Fifty letters and the last x are hence an
equilibrium of the epidemic that starts with the x they lead back to; `search` looks for letters
that lead back to 0.6. The one that it found is written down, as another processor's rounding would
make it find another.
"""

from __future__ import annotations

import re

import numpy as np

from benchmark.envs.meanfield.game import MAX_AGENTS, MeanFieldTask
from benchmark.task import Array, Family, Task

INFECTION, RECOVERY = 0.81, 0.3
INFECTED, INSIDE = 1.0, 0.5  # costs per step
START = 0.6  # share of infected
# An equilibrium, found by search(60_000, seed=2): one letter a step, and the last x
LETTERS, LAST = "DDUDUMDUMUMMUDUMDUMUMMUMMUDUMMUMDUMUMUMUDUMMDUUMUU", 0.5482591390468471


class SISModel:
    """Limit N -> infinity."""

    n_obs, n_actions, horizon = 2, 2, 50

    def __init__(self) -> None:
        self.mu0 = np.array([1 - START, START])  # [O]
        self._reward = -np.array([[0, INSIDE], [INFECTED, INFECTED + INSIDE]])  # [O, A]

    def kernel(self, t: int, xi: Array) -> Array:
        risk = INFECTION * float(xi[1].sum())
        kernel = np.empty((2, 2, 2))  # [O, A, O]
        kernel[0] = np.array([[1 - risk, risk], [1, 0]])
        kernel[1] = RECOVERY, 1 - RECOVERY
        return kernel

    def reward(self, t: int, xi: Array) -> Array:
        return self._reward

    def solve(self) -> Array:
        """One equilibrium of many. The infected go out: staying in gains them nothing."""
        x, d = np.array([LAST]), np.zeros(1)
        pi = np.zeros((self.horizon, 2, 2))  # [H, O, A]
        for h in reversed(range(self.horizon)):
            xs, ds, out, _ = before(x, d)
            letter = "UMD".index(LETTERS[h])
            x, d = xs[letter], ds[letter]
            pi[h, 0] = out[letter, 0], 1 - out[letter, 0]
        pi[:, 1, 0] = 1
        return pi


def before(x: Array, d: Array) -> tuple[Array, Array, Array, Array]:
    """The step that leads to x, d [n], by each letter U, M, D [3, n]: x and d before it, the share
    of the susceptible who go out, and whether there is such a step.
    """
    d = np.maximum(d, 1e-12)
    indifferent = np.minimum(INSIDE / (INFECTION * d), 2.0)  # beyond 1 all go out at any x
    # U: x' = (1 - RECOVERY) x + INFECTION x (1 - x)
    b = 1 - RECOVERY + INFECTION
    root = b**2 - 4 * INFECTION * x
    out = (b - np.sqrt(np.maximum(root, 0))) / (2 * INFECTION)
    inside = x / (1 - RECOVERY)
    xs = np.stack([out, indifferent, inside])  # [3, n]
    risk = INFECTION * indifferent * (1 - indifferent)
    some = (x - (1 - RECOVERY) * indifferent) / np.where(risk == 0, 1, risk)
    possible = np.stack(
        [
            (root >= 0) & (out <= np.minimum(indifferent, 1)),
            (indifferent < 1) & (some >= 0) & (some <= 1),
            (inside >= indifferent) & (inside <= 1),
        ]
    )
    ds = (1 - RECOVERY) * d + INFECTED - np.minimum(INFECTION * xs * d, INSIDE)
    return xs, ds, np.stack([np.ones_like(x), some, np.zeros_like(x)]), possible


def search(width: int, seed: int = 0) -> tuple[str, float, float]:
    """Follow `width` last x's backwards by letters at random: LETTERS, LAST and the x they lead to.

    Partial ways are dropped where no epidemic that starts at START can be.
    """
    rng, horizon = np.random.default_rng(seed), SISModel.horizon
    low = START * (1 - RECOVERY) ** np.arange(horizon + 1)
    high = np.full(horizon + 1, START)
    for t in range(horizon):
        high[t + 1] = high[t] * (1 - RECOVERY + INFECTION * (1 - high[t]))
    last = np.linspace(low[-1], high[-1], width)
    x, d, letters = last, np.zeros(width), np.zeros((horizon, width), np.int8)
    for t in reversed(range(horizon)):
        xs, ds, _, possible = before(x, d)
        if t:
            possible &= (xs >= low[t]) & (xs <= high[t])
        letter, way = np.nonzero(possible)
        if len(way) > width:
            kept = rng.choice(len(way), width, replace=False)
            letter, way = letter[kept], way[kept]
        x, d, last, letters = xs[letter, way], ds[letter, way], last[way], letters[:, way]
        letters[t] = letter
    best = int(np.abs(x - START).argmin())
    return "".join("UMD"[k] for k in letters[:, best]), float(last[best]), float(x[best])


def _build(match: re.Match[str]) -> Task:
    return MeanFieldTask(match[0], int(match["n"]), SISModel(), metric="exploitability")


FAMILY = Family(
    pattern=rf"meanfield/sis-n(?P<n>{MAX_AGENTS})-v1",
    examples=("meanfield/sis-n1000-v1",),
    build=_build,
)
