"""Data of the mean-field games: a fresh behaviour policy in every episode.

With one behaviour policy the population's distribution would be the same in all episodes, up to
1/sqrt(N), and the data would say nothing about the rewards at any other. So each episode draws a
policy of its own, from which all its agents sample; the log-probability of every action is stored,
and in games of turns whose action counted.

Building block: a *random policy* is a softmax of Gaussian logits, sd 2 for each (state, action)
plus sd 1 for each (time, state, action); in games of turns, time is the round.

random         a random policy
medium         competitive games: a short mirror descent from a random policy, of 0 to `steps` steps
               (LEARNERS), mixed with a share of 0 to 0.5 of a second random policy.
               squeeze and its kin: a random policy, tilted (logits + c * action) so that its mean
               action is a uniform draw from just below the best towards uniform play, as partly
               trained behaviours would be. Their average is poor: cloning it is no way to the
               optimum
expert         95% the reference (equilibrium, or optimum where cooperative), 5% a random policy
               (squeeze: a policy of the medium tier)
medium-replay  the iterates of one learner, one an episode, from uniform play to the end of the
               medium tier's range. Competitive games: the same mirror descent in small steps, mixed
               with a share of 0 to 0.5 of a random policy. squeeze and its kin: a random policy
               tilted to a mean action that falls, fast at first and then slowly
mixed          in turn an episode of the random tier and one of the expert tier

One-step games have 400 episodes a tier, the others 150.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmark.envs.meanfield.solve import mirror_descent, softmax, uniform_policy
from benchmark.protocol import RECIPE_SEEDS
from benchmark.task import Array, GameModel, Task
from datasets.writer import Writer

TASKS = r"meanfield/[a-z]+(-[a-z]+)*-n\d+(-b\d+)?"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "expert", "medium-replay", "mixed")  # seeds go by this order: append

EXPERT_SHARE = 0.95
SQUEEZE_MEANS = (0.5, 3.1)  # of the medium tier's mean action in the normalised squeeze ...
SQUEEZE_BEST = (1 + 1.5**0.5) / 2  # ... whose best mean action is this; its kin scale by theirs
REPLAY_MEAN = 1.6  # where the replay's mean action ends: its return is that of the medium tier
NOISE = 0.5  # highest share of the second random policy
# Game -> most steps of mirror descent, and their rate: such that the average behaviour of the
# medium tier keeps about three quarters of the exploitability of uniform play.
LEARNERS = {
    "beach-bar": (8, 0.1),
    "four-rooms": (8, 0.015),
    "left-right": (8, 0.3),
    "queue": (8, 0.3),
    "resource": (8, 0.6),
    "rps": (8, 0.6),
    "sis": (8, 1.5),
}
CHUNK = 8_000_000  # decisions in lockstep


def files(tier: str) -> list[Path]:
    """No behaviour weights: policies are drawn or solved for."""
    return []


def size(task: Task, tier: str) -> int:
    return 400 if task.spec.horizon == 1 else 150


def collect(task: Task, tier: str, writer: Writer, progress: Callable[[int], None]) -> None:
    model = task.model()
    assert model is not None
    n = task.spec.n_agents
    # Recipe seeds shifted far above the seeds of training, tuning, evaluation and verification
    first = RECIPE_SEEDS[TIERS.index(tier)] << 40
    episodes, chunk = size(task, tier), max(1, CHUNK // (n * model.horizon))
    policies = behaviours(task, tier, model, range(first, first + episodes))
    for begin in range(0, episodes, chunk):
        seeds = [first + e for e in range(begin, min(begin + chunk, episodes))]
        drawn = [next(policies) for _ in seeds]
        shape = (len(seeds), model.horizon, n)
        obs = np.empty((*shape, 1), np.int32)  # [E, T, N, 1]
        act, logp = np.empty(shape, np.int32), np.empty(shape, np.float32)  # [E, T, N]
        rew, active = np.empty(shape), np.ones(shape, bool)  # [E, T, N]
        env = task.arrays(len(seeds))
        now = env.reset(seeds)
        for t in range(model.horizon):
            obs[:, t] = now
            for e, (table, rng) in enumerate(drawn):
                act[e, t] = sample(table[t], now[e, :, 0], rng)
                logp[e, t] = np.log(table[t][now[e, :, 0], act[e, t]])
            step = env.step(act[:, t])
            rew[:, t], now = step.rew, step.obs
            if step.active is not None:
                active[:, t] = step.active
        writer.append(
            obs=obs,
            act=act,
            rew=rew,
            final_obs=now,
            terminated=step.terminated,
            seeds=np.array(seeds),
            policy=np.arange(begin, begin + len(seeds)),
            logp=logp,
            active=None if step.active is None else active,
        )
        progress(len(seeds))


def behaviours(
    task: Task, tier: str, model: GameModel, seeds: range
) -> Iterator[tuple[Array, np.random.Generator]]:
    """The policy of each episode, pi[h, o, a], with the generator of its actions."""
    reference = model.solve()
    if tier == "medium-replay":
        yield from replay(task, model, reference, seeds)
        return
    for e, seed in enumerate(seeds):
        rng = np.random.default_rng([seed, 1])
        own = ("random", "expert")[e % 2] if tier == "mixed" else tier
        yield behaviour(task, own, model, reference, rng), rng


def behaviour(
    task: Task, tier: str, model: GameModel, reference: Array, rng: np.random.Generator
) -> Array:
    """The policy of one episode of the random, medium or expert tier, pi[h, o, a]."""
    drawn = random_policy(model, rng)
    # Every tier makes the same draws, so that the actions that follow are drawn alike.
    if game(task) in LEARNERS:
        most, rate = LEARNERS[game(task)]
        steps, share = int(rng.integers(most + 1)), rng.uniform(0, NOISE)
        noise = random_policy(model, rng)
        if tier == "medium":
            return (1 - share) * mirror_descent(model, steps, rate, start=drawn) + share * noise
    else:
        scale = (reference[0] @ np.arange(model.n_actions)) / SQUEEZE_BEST  # [O]
        noise = tilted(drawn, rng.uniform(*SQUEEZE_MEANS, model.n_obs) * scale)
        if tier == "medium":
            return noise
    if tier == "random":
        return drawn
    return EXPERT_SHARE * reference + (1 - EXPERT_SHARE) * noise


def replay(
    task: Task, model: GameModel, reference: Array, seeds: range
) -> Iterator[tuple[Array, np.random.Generator]]:
    """The same for one learner that sets out from uniform play and explores."""
    actions = np.arange(model.n_actions)
    begin, end = actions.mean(), REPLAY_MEAN / SQUEEZE_BEST * (reference[0] @ actions)  # end [O]
    learnt = uniform_policy(model)
    for seed, done in zip(seeds, np.linspace(0, 1, len(seeds)), strict=True):
        rng = np.random.default_rng([seed, 1])
        noise = random_policy(model, rng)
        if game(task) not in LEARNERS:
            yield tilted(noise, end + (1 - done) ** 3 * (begin - end)), rng
            continue
        share = rng.uniform(0, NOISE)
        yield (1 - share) * learnt + share * noise, rng
        most, rate = LEARNERS[game(task)]
        learnt = mirror_descent(model, 1, most * rate / len(seeds), start=learnt)


def random_policy(model: GameModel, rng: np.random.Generator) -> Array:
    """A policy unlike any other: pi[h, o, a], with one table a round in games of turns."""
    steps = getattr(model, "steps_per_round", 1)
    shape = (model.horizon // steps, model.n_obs, model.n_actions)
    logits = 2.0 * rng.standard_normal(shape[1:]) + rng.standard_normal(shape)
    return np.repeat(softmax(logits), steps, axis=0)


def tilted(pi: Array, means: Array) -> Array:
    """The policy proportional to pi[h, o, a] exp(c_o a) whose mean action at o is means[o]."""
    actions = np.arange(pi.shape[-1])
    low, high = np.full(len(means), -50.0), np.full(len(means), 50.0)
    for _ in range(60):
        c = (low + high) / 2
        found = softmax(np.log(pi) + c[:, None] * actions)
        below = found[0] @ actions < means
        low, high = np.where(below, c, low), np.where(below, high, c)
    return found


def sample(pi: Array, obs: Array, rng: np.random.Generator) -> Array:
    """One action per agent: pi [O, A], obs [N] -> [N]."""
    edges = np.cumsum(pi, axis=1)[:, :-1]  # [O, A - 1]
    draws = rng.random(len(obs))
    return sum((draws >= edges[obs, a]).astype(np.int64) for a in range(edges.shape[1]))


def game(task: Task) -> str:
    """The game's name without its sizes."""
    return re.split(r"-n\d", task.spec.id.split("/")[1])[0]
