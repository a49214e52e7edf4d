"""Data of the games `squeeze` and `beach-bar`: a fresh behaviour policy in every episode.

With one behaviour policy the population's distribution would be the same in all episodes, up to
1/sqrt(N), and the data would say nothing about the rewards at any other. So each episode draws a
policy of its own, from which all its agents sample; the log-probability of every action is stored.

Building block: a *random policy* is a softmax of Gaussian logits, sd 2 for each (state, action)
plus sd 1 for each (time, state, action).

squeeze, 400 episodes:
  random   a random policy
  medium   a random policy, tilted (logits + c * action) so that its mean action is a uniform draw
           from [0.5, 3.1]: from just below the best, 1.11, towards uniform play, 4.5, as partly
           trained behaviours would be. Their average is poor: cloning it is no way to the optimum
  expert   95% the optimum, 5% a policy of the medium tier
beach-bar, 150 episodes:
  random   a random policy
  medium   k = 0 to 8 steps of mirror descent, rate 0.1, from a random policy, mixed with a share of
           0 to 0.5 of a second random policy
  expert   95% the equilibrium, 5% a random policy
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmark.envs.meanfield.solve import mirror_descent, softmax
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, GameModel, Task
from datasets.writer import Writer

TASKS = r"meanfield/(squeeze|beach-bar)-n\d+"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "expert")

EXPERT_SHARE = 0.95
SQUEEZE_MEANS = (0.5, 3.1)  # of the medium tier's mean action
BEACH_STEPS, BEACH_RATE, BEACH_NOISE = 8, 0.1, 0.5
CHUNK = 1_000_000  # agents in lockstep


def files(tier: str) -> list[Path]:
    """No behaviour weights: policies are drawn or solved for."""
    return []


def size(task: Task, tier: str) -> int:
    return 400 if _is_squeeze(task) else 150


def collect(task: Task, tier: str, writer: Writer, progress: Callable[[int], None]) -> None:
    model = task.model()
    assert model is not None
    n = task.spec.n_agents
    # Recipe seeds shifted far above the seeds of training, tuning, evaluation and verification
    first = RECIPE_SEEDS[TIERS.index(tier)] << 40
    reference = model.solve()
    episodes, chunk = size(task, tier), max(1, CHUNK // n)
    for begin in range(0, episodes, chunk):
        seeds = [first + e for e in range(begin, min(begin + chunk, episodes))]
        rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
        tables = [behaviour(task, tier, model, reference, rng) for rng in rngs]
        shape = (len(seeds), model.horizon, n)
        obs = np.empty((*shape, 1), np.int64)  # [E, T, N, 1]
        act, logp, rew = np.empty(shape, np.int64), np.empty(shape), np.empty(shape)  # [E, T, N]
        env = task.arrays(len(seeds))
        now = env.reset(seeds)
        for t in range(model.horizon):
            obs[:, t] = now
            for e, (table, rng) in enumerate(zip(tables, rngs, strict=True)):
                act[e, t] = sample(table[t], now[e, :, 0], rng)
                logp[e, t] = np.log(table[t][now[e, :, 0], act[e, t]])
            step = env.step(act[:, t])
            rew[:, t], now = step.rew, step.obs
        writer.append(
            obs=obs,
            act=act,
            rew=rew,
            final_obs=now,
            terminated=step.terminated,
            seeds=np.array(seeds),
            policy=np.arange(begin, begin + len(seeds)),
            logp=logp,
        )
        progress(len(seeds))


def behaviour(
    task: Task, tier: str, model: GameModel, reference: Array, rng: np.random.Generator
) -> Array:
    """The policy of one episode, pi[h, o, a]."""
    drawn = random_policy(model, rng)
    if _is_squeeze(task):
        medium = tilted(drawn, rng.uniform(*SQUEEZE_MEANS))
        noise = medium
    else:
        steps, share = int(rng.integers(BEACH_STEPS + 1)), rng.uniform(0, BEACH_NOISE)
        noise = random_policy(model, rng)
        learnt = mirror_descent(model, steps, BEACH_RATE, start=drawn)
        medium = (1 - share) * learnt + share * noise
    if tier == "expert":
        return EXPERT_SHARE * reference + (1 - EXPERT_SHARE) * noise
    return medium if tier == "medium" else drawn


def random_policy(model: GameModel, rng: np.random.Generator) -> Array:
    """A policy unlike any other: pi[h, o, a]."""
    shape = (model.horizon, model.n_obs, model.n_actions)
    return softmax(2.0 * rng.standard_normal(shape[1:]) + rng.standard_normal(shape))


def tilted(pi: Array, mean: float) -> Array:
    """The policy proportional to pi[0, 0, a] exp(c a) whose mean action is `mean`."""
    actions = np.arange(pi.shape[-1])
    low, high = -50.0, 50.0
    for _ in range(60):
        c = (low + high) / 2
        found = softmax(np.log(pi) + c * actions)
        low, high = (c, high) if float(found[0, 0] @ actions) < mean else (low, c)
    return found


def sample(pi: Array, obs: Array, rng: np.random.Generator) -> Array:
    """One action per agent: pi [O, A], obs [N] -> [N]."""
    edges = np.cumsum(pi, axis=1)[:, :-1]  # [O, A - 1]
    draws = rng.random(len(obs))
    return sum((draws >= edges[obs, a]).astype(np.int64) for a in range(edges.shape[1]))


def _is_squeeze(task: Task) -> bool:
    return task.spec.id.startswith("meanfield/squeeze-")
