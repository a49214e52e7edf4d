"""Exact tools on finite mean-field games: flow, values, best response, exploitability, equilibrium.

A policy is a table pi[h, o, a], a flow is mu[h, o]; xi = mu[:, None] * pi is the joint distribution
that the model's kernel and reward ask for. Values are sums over the horizon, without a discount but
what the model's rewards have in them. A game of turns (`turns`) is the average over who is active,
so that the same recursions are exact for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmark.task import Array, GameModel, Task, TurnsModel


def uniform_policy(model: GameModel) -> Array:
    """pi[h, o, a] = 1 / A."""
    shape = (model.horizon, model.n_obs, model.n_actions)
    return np.full(shape, 1.0 / model.n_actions)


def flow(model: GameModel, pi: Array) -> Array:
    """Distribution over observations at times 0 .. H when everyone plays pi: [H + 1, O]."""
    return _trace(model, pi)[0]


def policy_value(model: GameModel, pi: Array, population: Array | None = None) -> float:
    """Return of one agent that plays pi [H, O, A] among agents playing `population` (None: pi)."""
    _, rewards, kernels = _trace(model, pi if population is None else population)
    return float(model.mu0 @ (pi[0] * action_values(rewards, kernels, pi)[0]).sum(-1))


def best_response_value(model: GameModel, pi: Array) -> float:
    """Highest expected return of one agent among a population playing pi."""
    _, rewards, kernels = _trace(model, pi)
    return float(model.mu0 @ action_values(rewards, kernels)[0].max(-1))


def exploitability(model: GameModel, pi: Array) -> float:
    """What one agent can gain by leaving pi while all others play it; 0 at an equilibrium."""
    _, rewards, kernels = _trace(model, pi)
    best = action_values(rewards, kernels)[0].max(-1)  # [O]
    own = (pi[0] * action_values(rewards, kernels, pi)[0]).sum(-1)  # [O]
    return max(0.0, float(model.mu0 @ (best - own)))


def mirror_descent(
    model: GameModel, iterations: int, rate: float, start: Array | None = None
) -> Array:
    """Online mirror descent (arXiv:2103.00623): y += rate * Q, pi = softmax(y); the last pi.

    Converges in monotone games; whatever it returns, `exploitability` says how good it is. In a
    game of turns the steps of a round share one table: y gets the sum of their Q, in which an
    action counts as often as it is taken, and which is therefore the same for any B.
    """
    steps = model.steps_per_round if isinstance(model, TurnsModel) else 1
    shape = (model.horizon // steps, model.n_obs, model.n_actions)  # rounds, O, A
    logits = np.zeros(shape)
    if start is not None:
        logits = np.log(np.maximum(start[::steps], 1e-12))
    for _ in range(iterations):
        pi = np.repeat(softmax(logits), steps, axis=0)
        _, rewards, kernels = _trace(model, pi)
        q = action_values(rewards, kernels, pi)
        logits += rate * q.reshape(len(logits), steps, *shape[1:]).sum(1)
        logits -= logits.max(-1, keepdims=True)
    return np.repeat(softmax(logits), steps, axis=0)


def solve_turns(
    game: Callable[[int], TurnsModel], steps: int, iterations: tuple[int, int], rate: float
) -> Array:
    """Mirror descent for a game of turns, given by its model for any number of steps per round.

    The game hardly changes with the steps, its cost does: the first of `iterations` are done with
    one step per round, and the second with 4, 16, ... up to `steps`, each from the last's solution.
    """
    if steps == 1:
        return mirror_descent(game(1), iterations[0], rate)
    coarser = -(-steps // 4)
    start = solve_turns(game, coarser, iterations, rate)[::coarser]  # a table per round
    return mirror_descent(game(steps), iterations[1], rate, np.repeat(start, steps, axis=0))


def population_error(task: Task, pi: Array, seeds: range) -> tuple[Array, Array]:
    """max_t |mu_N(t) - mu(t)|_1 and the team's return of each episode in which all N agents of a
    task play pi: [E] each.
    """
    from benchmark.envs.meanfield.game import TablePolicy

    model = task.model()
    assert model is not None, f"{task.spec.id} has no exact model"
    exact, policy = flow(model, pi), TablePolicy(pi)
    env = task.arrays(len(seeds))
    obs, error, paid = env.reset(seeds), np.zeros(len(seeds)), np.zeros(len(seeds))
    policy.begin(len(seeds), seeds[0])
    for t in range(model.horizon):
        counts = np.stack([np.bincount(row, minlength=model.n_obs) for row in obs[..., 0]])
        distance = np.abs(counts / task.spec.n_agents - exact[t]).sum(-1)  # [E]
        step = env.step(policy.act(obs, None, None, t, False))
        obs, error = step.obs, np.maximum(error, distance)
        paid += task.spec.team(step.rew)
    return error, paid


def action_values(rewards: Array, kernels: Array | list[Array], pi: Array | None = None) -> Array:
    """Q[h, o, a] against rewards [H, O, A] and kernels [H, O, A, O]; pi None: best response."""
    q = np.empty_like(rewards)  # [H, O, A]
    value = np.zeros(rewards.shape[1])  # [O]
    for h in reversed(range(len(rewards))):
        q[h] = rewards[h] + kernels[h] @ value
        value = q[h].max(-1) if pi is None else (pi[h] * q[h]).sum(-1)
    return q


def softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _trace(model: GameModel, pi: Array) -> tuple[Array, Array, list[Array]]:
    """Flow [H + 1, O], rewards [H, O, A] and H kernels [O, A, O] of a population that plays pi."""
    mu = np.empty((model.horizon + 1, model.n_obs))
    rewards = np.empty((model.horizon, model.n_obs, model.n_actions))
    kernels = []
    mu[0] = model.mu0
    for h in range(model.horizon):
        xi = mu[h][:, None] * pi[h]  # [O, A]
        rewards[h] = model.reward(h, xi)
        kernels.append(model.kernel(h, xi))  # often one array for all h, which is not copied
        mu[h + 1] = np.tensordot(xi, kernels[h], axes=2)
    return mu, rewards, kernels
