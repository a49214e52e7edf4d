"""A lower bound of exploitability by a trained best response, for games without an exact model.

All agents of a population play one policy; one of them leaves it. What the best such agent gains is
the policy's exploitability among N agents; what a *trained* one gains on fresh seeds is a lower
bound of it, and says nothing of what a better search would find. In a battle it is one soldier who
leaves, and the opponent stays the task's.

The response has A + 1 choices: an action, or what the policy would have done, so that it can fall
back to a gain of 0. It takes the best of Q(o, c). Where observations are finite, Q_t is a table for
each step, by dynamic programming on all that was seen (fitted Q iteration, Ernst et al., 2005).
Else Q is linear in the observation and in random rectified features of it, a ridge regression of
the returns-to-go of the last rounds: Monte Carlo policy iteration, because in a skirmish a maximum
over 50 fitted steps led astray (gains of .35, 0 and 0 against random, hold and expert, where this
finds .56, .17 and .11). Rounds of playing and fitting alternate; of all rounds the one that gains
most on seeds of its own is kept.

In training several agents leave at once, 1 in 16, which only makes the search cheaper: the gain is
measured with one, agent 0, against its own return in the same episodes without leaving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmark.errors import UserError
from benchmark.evaluate import POLICY_STREAM, Policy, check_actions, rollout
from benchmark.protocol import RESPONSE_SEEDS
from benchmark.task import Array, Task, TaskSpec

LABEL = "lower bound (trained best response)"
ROUNDS = 8
LEAVE = 16  # in training one agent of so many leaves
EXPLORE = (0.5, 0.2)  # share of random choices in the first round, and in the others
FEATURES = 128  # random ones, where observations are not finite
RIDGE = 1.0  # of a table's entry, in observations
RIDGE_FEATURES = 10.0  # of a feature's weight
MEMORY = 3  # rounds that returns-to-go are taken from
STEPS = 2_000_000  # agent-steps of a round's episodes, about
EPISODES = (16, 400)  # of a round, at least and at most
MEASURED = 1_000  # episodes of the measurement, at most
Z = 1.96  # of a 95% interval; there are episodes enough for a normal one


@dataclass(frozen=True)
class Response:
    """`gain` is a mean over `episodes`; exploitability is at least `at_least`, with 97.5%
    confidence.
    """

    gain: float
    low: float  # 95% interval
    high: float
    at_least: float  # max(0, low)
    own: float  # return of the agent who does not leave
    episodes: int
    round: int  # that was kept; 0: the policy itself, no response gained anything in training
    trained_episodes: int
    label: str = LABEL


@dataclass
class Seen:
    """What the leaving agents D of E episodes saw and did at one step, rows R = E x D."""

    obs: Array  # [R, D]
    choice: Array  # [R] 0 .. A; A: as the policy
    rew: Array  # [R]
    live: Array  # [R] bool: alive before the step, in an episode that was not over
    goes_on: Array  # [R] bool: the same after it


class Leaving:
    """The policy for all, but agents 0 .. D - 1, who choose by Q; a `benchmark.evaluate.Policy`."""

    def __init__(self, policy: Policy, spec: TaskSpec, n_leaving: int, features: Features) -> None:
        self.policy, self.spec, self.n_leaving, self.features = policy, spec, n_leaving, features
        self.weights: Array | None = None  # [H, A + 1, F]; None: as the policy
        self.explore = 0.0
        self.choice: Array = np.zeros((0, n_leaving), np.int64)  # of the last step

    def begin(self, n_envs: int, seed: int) -> None:
        self.policy.begin(n_envs, seed)
        self.rng = np.random.default_rng([seed, 0xB5])

    def act(
        self, obs: Array, alive: Array | None, mask: Array | None, t: int, deterministic: bool
    ) -> Array:
        """obs [E, N, D] -> [E, N]."""
        act = np.array(self.policy.act(obs, alive, mask, t, deterministic))
        n_actions, d = self.spec.n_actions or 0, self.n_leaving
        shape = (len(obs), d)
        allowed = np.ones((*shape, n_actions + 1), bool)
        if mask is not None:
            allowed[..., :n_actions] = mask[:, :d]
        choice = np.full(shape, n_actions)
        if self.weights is not None:
            q = self.features(obs[:, :d]) @ self.weights[t].T
            choice = np.where(allowed, q, -np.inf).argmax(-1)
        if self.explore:
            strays = self.rng.random(shape) < self.explore
            drawn = np.where(allowed, self.rng.random(allowed.shape), -1.0).argmax(-1)
            choice = np.where(strays, drawn, choice)
        act[:, :d] = np.where(choice < n_actions, choice, act[:, :d])
        self.choice = choice
        return act


class Features:
    """phi [..., F] of observations [..., D]."""

    def __init__(self, spec: TaskSpec) -> None:
        self.n_obs = spec.n_obs
        rng = np.random.default_rng(0)
        self.slopes = rng.normal(size=(spec.obs_dim, FEATURES)) / np.sqrt(spec.obs_dim)
        self.offsets = rng.normal(size=FEATURES)
        self.width = spec.n_obs or 1 + spec.obs_dim + FEATURES

    def __call__(self, obs: Array) -> Array:
        if self.n_obs is not None:
            return np.eye(self.n_obs)[obs[..., 0]]
        hidden = np.maximum(obs @ self.slopes + self.offsets, 0.0)
        return np.concatenate([np.ones_like(hidden[..., :1]), obs, hidden], -1)


def best_response(
    task: Task,
    policy: Policy,
    progress: Callable[[str], None] | None = None,
    steps: int = STEPS,
) -> Response:
    """Train a response to `policy` and measure what it gains; deterministic. `steps`: agent-steps
    of a round, about.

    Raises UserError for a task whose agents are not exchangeable or whose actions are continuous.
    """
    spec = task.spec
    if not spec.exchangeable or not spec.discrete:
        kind = "continuous actions" if not spec.discrete else "agents that are not exchangeable"
        raise UserError(
            f"task {spec.id} has {kind}, expected discrete actions and exchangeable agents, such as"
            " meanfield/beach-bar-n256-v1."
        )
    work = steps // (spec.n_agents * spec.horizon)
    size = int(np.clip(work, *EPISODES))
    n_leaving = max(1, spec.n_agents // LEAVE)
    leaving = Leaving(policy, spec, n_leaving, Features(spec))
    trial = RESPONSE_SEEDS[:size]  # of choosing among rounds
    seeds = iter(range(trial.stop, RESPONSE_SEEDS.stop))
    plain = rollout(task, leaving, trial)[:, :n_leaving]
    best, kept, kept_round = 0.0, None, 0
    seen: list[list[Seen]] = []  # [round][step]
    for n in range(1, ROUNDS + 1):
        leaving.explore = EXPLORE[0 if n == 1 else 1]
        seen.append(play(task, leaving, [next(seeds) for _ in range(size)]))
        leaving.weights, leaving.explore = fit(spec, leaving.features, seen), 0.0
        gain = float((rollout(task, leaving, trial)[:, :n_leaving] - plain).mean())
        if progress:
            progress(f"round {n} of {ROUNDS}: gains {gain:.4g} in training")
        if gain > best:
            best, kept, kept_round = gain, leaving.weights, n
    leaving.n_leaving, leaving.weights = 1, kept
    episodes = min(MEASURED, max(EPISODES[0], 5 * work))
    fresh = [next(seeds) for _ in range(episodes)]
    left = rollout(task, leaving, fresh)[:, 0]
    leaving.weights = None
    stayed = rollout(task, leaving, fresh)[:, 0]
    gains = left - stayed
    half = Z * float(gains.std(ddof=1)) / len(gains) ** 0.5
    gain = float(gains.mean())
    at_least = max(0.0, gain - half)
    ends = gain, gain - half, gain + half, at_least
    return Response(*ends, float(stayed.mean()), episodes, kept_round, ROUNDS * size)


def play(task: Task, leaving: Leaving, seeds: list[int]) -> list[Seen]:
    """Play episodes in lockstep; what was seen at each step, until all are over."""
    spec, d = task.spec, leaving.n_leaving
    env = task.arrays(len(seeds))
    obs = env.reset(seeds)
    leaving.begin(len(seeds), POLICY_STREAM + seeds[0])
    alive = mask = None
    seen: list[Seen] = []
    live, running = np.ones((len(seeds), d), bool), np.ones(len(seeds), bool)
    for t in range(spec.horizon):
        act = leaving.act(obs, alive, mask, t, spec.deterministic_eval)
        before = obs[:, :d].reshape(len(seeds) * d, -1)
        step = env.step(check_actions(act, obs.shape[:2], spec))
        obs, alive, mask = step.obs, step.alive, step.mask
        running = running & ~(step.terminated | step.truncated)
        goes_on = running[:, None] & (live if alive is None else alive[:, :d] & live)
        rows = (leaving.choice, step.rew[:, :d], live, goes_on)
        seen.append(Seen(before, *(row.ravel() for row in rows)))
        live = goes_on
        if not running.any():
            break
    return seen


def fit(spec: TaskSpec, features: Features, seen: list[list[Seen]]) -> Array:
    """Weights of Q [H, A + 1, F] from rounds of play."""
    n_choices = (spec.n_actions or 0) + 1
    if not spec.finite:
        rows = [row for steps in seen[-MEMORY:] for row in returns_to_go(features, steps)]
        weights = regress(rows, n_choices, RIDGE_FEATURES)
        return np.broadcast_to(weights, (spec.horizon, *weights.shape))
    tables = np.zeros((spec.horizon, n_choices, features.width))
    for t in reversed(range(spec.horizon)):
        rows = []
        for steps in (steps for steps in seen if t < len(steps)):
            one, target = steps[t], steps[t].rew
            if one.goes_on.any():
                after = (features(steps[t + 1].obs) @ tables[t + 1].T).max(-1)
                target = target + np.where(one.goes_on, after, 0.0)
            rows.append((features(one.obs[one.live]), one.choice[one.live], target[one.live]))
        if rows:
            tables[t] = regress(rows, n_choices, RIDGE)
    return tables


Rows = tuple[Array, Array, Array]  # phi [R, F], choice [R], target [R]


def returns_to_go(features: Features, steps: list[Seen]) -> list[Rows]:
    """Of the living, what each leaving agent was still to earn; an element a step."""
    rows, to_go = [], np.zeros(len(steps[0].rew))
    for one in reversed(steps):
        to_go = to_go + np.where(one.live, one.rew, 0.0)
        rows.append((features(one.obs[one.live]), one.choice[one.live], to_go[one.live]))
    return rows


def regress(rows: list[Rows], n_choices: int, ridge: float) -> Array:
    """Weights [C, F] of the target by choice, shrunk towards those over all choices."""
    phi, choice, target = (np.concatenate(part) for part in zip(*rows, strict=True))

    def solve(phi: Array, target: Array, ridge: float) -> Array:
        return np.linalg.solve(phi.T @ phi + ridge * np.eye(phi.shape[1]), phi.T @ target)

    pooled = solve(phi, target, RIDGE)
    left = target - phi @ pooled
    own = [choice == c for c in range(n_choices)]
    return pooled + np.stack([solve(phi[rows], left[rows], ridge) for rows in own])
