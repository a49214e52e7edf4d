"""Finite mean-field games as algorithms see them: what is paid and where agents go, given the
population, from an exact model or learned from a buffer; and the recursions of TMF-PG on it.

A step has an active part, r(o, a), P(o' | o, a), and a passive part, r0(o), P0(o' | o); an agent is
active with probability rho. Passivity is stored as one more action, of index A. xi[o, a] is the
population's joint distribution, mu[o] its sum over actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from benchmark.batch import Dataset
from benchmark.errors import UserError
from benchmark.task import Array, GameModel, TaskSpec, TurnsModel


class Parts(NamedTuple):
    """One step of a game, float64; of the last of the A + 1 actions the agent is passive."""

    reward: Array  # [O, A + 1]
    kernel: Array  # [O, A + 1, O]
    doubt: Array  # [O, A + 1], how far members of an ensemble are apart; 0: exact


class Game(Protocol):
    """A game's steps as functions of the population."""

    def parts(self, t: int, xi: Array) -> Parts: ...


class ExactGame:
    """A GameModel's parts. Without turns everybody is active, and the passive parts are unused."""

    def __init__(self, model: GameModel) -> None:
        self.model, self.turns = model, model if isinstance(model, TurnsModel) else None
        self.zero = np.zeros((model.n_obs, model.n_actions + 1))

    def parts(self, t: int, xi: Array) -> Parts:
        model, turns = self.model, self.turns
        if turns is None:
            stay = np.eye(model.n_obs)[:, None]
            reward = np.concatenate([model.reward(t, xi), self.zero[:, :1]], 1)
            return Parts(reward, np.concatenate([model.kernel(t, xi), stay], 1), self.zero)
        mu, weight = xi.sum(-1), turns.discount ** (t / turns.steps_per_round)
        reward = np.concatenate([turns.active_reward(mu), turns.passive_reward(mu)[:, None]], 1)
        active, passive = turns.active_kernel(mu), turns.passive_kernel(mu)[:, None]
        return Parts(weight * reward, np.concatenate([active, passive], 1), self.zero)


@dataclass(frozen=True)
class Course:
    """What a population that plays pi [H, O, A] does and is paid, step by step."""

    mu: Array  # [H + 1, O]
    reward: Array  # [H, O, A + 1]
    kernel: Array  # [H, O, A + 1, O]
    doubt: float  # mean over the population's steps


def course(game: Game, mu0: Array, pi: Array, rho: float) -> Course:
    """The flow of pi, mu' = sum_o mu(o) [rho sum_a pi(a | o) P + (1 - rho) P0], and its parts."""
    mu, found, doubt = [mu0], [], 0.0
    for t, law in enumerate(pi):
        step = game.parts(t, mu[t][:, None] * law)
        found.append(step)
        xi = mu[t][:, None] * turns_law(law, rho)  # [O, A + 1]
        doubt += float((xi * step.doubt).sum()) / len(pi)
        mu.append(np.tensordot(xi, step.kernel, axes=2))
    reward, kernel = (np.stack([step[i] for step in found]) for i in (0, 1))
    return Course(np.stack(mu), reward, kernel, doubt)


def among(game: Game, mu: Array, pi: Array) -> Course:
    """The parts of a population that stands at mu [H + 1, O] and plays pi, wherever that leads."""
    steps = [game.parts(t, mu[t][:, None] * law) for t, law in enumerate(pi)]
    reward, kernel = (np.stack([step[i] for step in steps]) for i in (0, 1))
    return Course(mu, reward, kernel, 0.0)


def turns_law(law: Array, rho: float) -> Array:
    """pi [..., O, A] with the passive action: [..., O, A + 1]."""
    rest = np.full((*law.shape[:-1], 1), 1 - rho)
    return np.concatenate([rho * law, rest], -1)


def values(reward: Array, kernel: Array, pi: Array, rho: float, chain: bool) -> tuple[Array, Array]:
    """Q [H, O, A] of an active agent who plays pi [H, O, A] on parts [H, ...], and V [H + 1, O] of
    one who is active with probability rho, or with `chain` at every step.
    """
    q, value = np.empty(pi.shape), np.zeros((len(pi) + 1, pi.shape[1]))
    for t in reversed(range(len(pi))):
        after = reward[t] + kernel[t] @ value[t + 1]  # [O, A + 1]
        q[t] = after[:, :-1]
        law = turns_law(pi[t], 1.0 if chain else rho)
        value[t] = (law * after).sum(-1)
    return q, value


@dataclass(frozen=True)
class Logged:
    """What a buffer of a finite game says before anything is learned."""

    rho: float  # share of agents who are active at a step
    mu0: Array  # [O]
    populations: Array  # [S, O] float32, shares of observations at each step of the data
    choices: Array  # [S, A] float32, shares of the active agents' actions
    behaviour: Array  # pi [rounds, O, A], mean behaviour with `smooth` uniform pseudo-counts


def logged(data: Dataset, spec: TaskSpec, smooth: float) -> Logged:
    """Counts over a whole buffer, a thousand steps at a time."""
    assert spec.n_obs is not None
    assert spec.n_actions is not None
    n_obs, n_actions, steps = spec.n_obs, spec.n_actions, data.n_steps
    active = data.active
    rho = 1.0 if active is None else float(np.mean(active))
    per_round = max(1, round(1 / rho))
    rounds = -(-spec.horizon // per_round)
    populations = np.empty((steps, n_obs), np.float32)
    choices = np.empty((steps, n_actions), np.float32)
    counts = np.zeros((rounds, n_obs, n_actions))
    time = np.arange(steps) - np.repeat(data.starts[:-1], np.diff(data.starts))  # [S]
    for first in range(0, steps, 1000):
        rows = slice(first, min(first + 1000, steps))
        obs, act = np.asarray(data.obs[rows])[..., 0], np.asarray(data.act[rows])  # [S, N]
        on = np.ones(obs.shape, bool) if active is None else active[rows]
        line = np.arange(len(obs))[:, None]
        populations[rows] = histogram(line * n_obs + obs, len(obs) * n_obs).reshape(-1, n_obs)
        chosen = histogram((line * n_actions + act)[on], len(obs) * n_actions)
        choices[rows] = chosen.reshape(-1, n_actions)
        cell = ((time[rows] // per_round)[:, None] * n_obs + obs) * n_actions + act
        counts += histogram(cell[on], counts.size).reshape(counts.shape)
    populations /= populations.sum(1, keepdims=True)
    choices /= np.maximum(choices.sum(1, keepdims=True), 1)
    counts += smooth / n_actions
    mu0 = populations[data.starts[:-1]].mean(0).astype(np.float64)
    behaviour = counts / counts.sum(-1, keepdims=True)
    return Logged(1 / per_round, mu0 / mu0.sum(), populations, choices, behaviour)


def histogram(cells: Array, size: int) -> Array:
    return np.bincount(cells.ravel(), minlength=size)


class Weights:
    """The flow of any policy by marginalised importance sampling of logged moves (o, a, o'):

    mu'(o') = sum mu(o) / mu_D(o) pi(a | o) / pi_b(a | o), normalised; passive moves have no ratio
    of policies. Sums over the data are taken once, so that a policy costs a product of tables.
    """

    def __init__(self, data: Dataset, spec: TaskSpec, known: Logged, largest: float) -> None:
        """`largest` bounds 1 / pi_b. Raises UserError where no log-probabilities are stored."""
        assert spec.n_obs is not None
        assert spec.n_actions is not None
        if data.logp is None:
            raise UserError(
                f"{data.id} has no log-probabilities of its behaviour, which weights by importance"
                " need; expected a dataset that logs them."
            )
        n_obs, n_all, horizon = spec.n_obs, spec.n_actions + 1, spec.horizon
        self.moves = np.zeros((horizon, n_obs, n_all, n_obs))  # sums of 1 / pi_b, shares of a step
        self.squares = np.zeros((horizon, n_obs, n_all))  # the same of 1 / pi_b^2
        self.stood = np.zeros((horizon, n_obs))  # mu_D
        lengths, active = np.diff(data.starts), data.active
        for t in range(horizon):
            rows = data.starts[:-1][lengths > t] + t
            self.stood[t] = known.populations[rows].mean(0)
            rows = data.starts[:-1][lengths > t + 1] + t
            if not len(rows):
                continue
            obs, after = (np.asarray(data.obs[rows + i])[..., 0] for i in (0, 1))
            act, logp = np.asarray(data.act[rows]), np.asarray(data.logp[rows], np.float64)
            on = np.ones(obs.shape, bool) if active is None else active[rows]
            weight = np.where(on, np.minimum(np.exp(-logp), largest), 1.0).ravel()
            cell = (obs * n_all + np.where(on, act, n_all - 1)).ravel()
            moved = cell * n_obs + after.ravel()
            for sums, place, summed in (
                (self.moves[t], moved, weight),
                (self.squares[t], cell, weight**2),
            ):
                total = np.bincount(place, summed, minlength=sums.size)
                sums[:] = total.reshape(sums.shape) / cell.size

    def flow(self, mu0: Array, pi: Array) -> tuple[Array, float]:
        """mu [H, O] of pi [H, O, A], and the summed mean squares of its weights: how few moves
        speak for it.
        """
        mu, doubt = np.zeros(self.stood.shape), 0.0
        mu[0] = mu0
        both = np.concatenate([pi, np.ones((*pi.shape[:2], 1))], -1)
        for t in range(len(pi) - 1):
            weight = (mu[t] / np.maximum(self.stood[t], 1e-6))[:, None] * both[t]  # [O, A + 1]
            total = np.einsum("oa,oap->p", weight, self.moves[t])
            doubt += float((np.square(weight) * self.squares[t]).sum()) / total.sum() ** 2
            mu[t + 1] = total / total.sum()
        return mu, doubt
