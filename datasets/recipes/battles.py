"""What the recipes of battles share: episodes in lockstep, a behaviour of its own in each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmark.envs.battle.fighter import pick, uniform
from benchmark.task import Array, Task
from datasets.writer import Writer

Behaviour = Callable[[Array], Array]  # obs [N, D] -> probabilities [N, n_actions]


def roll(
    task: Task,
    played: list[Behaviour],
    seeds: list[int],
    streams: list[np.random.Generator],
    first: int,
    writer: Writer,
) -> None:
    """One behaviour per episode in lockstep, written episode by episode, as lengths differ."""
    spec = task.spec
    env = task.arrays(len(seeds))
    obs, alive = env.reset(seeds), np.ones((len(seeds), spec.n_agents), bool)
    rows, running = [], np.ones(len(seeds), bool)
    length, margin, win = (np.zeros(len(seeds)) for _ in range(3))
    terminated = np.zeros(len(seeds), bool)
    final = obs.copy()
    p = np.zeros((len(seeds), spec.n_agents, spec.n_actions or 0), np.float32)  # [E, N, A]
    while running.any():
        for e in np.flatnonzero(running).tolist():
            p[e] = played[e](obs[e])
        act = pick(p, uniform(streams, spec.n_agents))
        logp = np.log(np.take_along_axis(p, act[..., None], -1)[..., 0])
        step = env.step(act)
        rows.append((obs, act, step.rew, logp, alive))
        ended = running & (step.terminated | step.truncated)
        assert step.outcome is not None
        assert step.alive is not None
        margin[ended], win[ended] = step.outcome["margin"][ended], step.outcome["win"][ended]
        terminated[ended], final[ended], length[ended] = (
            step.terminated[ended],
            step.obs[ended],
            len(rows),
        )
        running &= ~ended
        obs, alive = step.obs, step.alive
    for e in range(len(seeds)):
        steps = [np.stack([row[k][e] for row in rows[: int(length[e])]])[None] for k in range(5)]
        names = ("obs", "act", "rew", "logp", "alive")
        writer.append(
            **dict(zip(names, steps, strict=True)),
            final_obs=final[None, e],
            terminated=terminated[None, e],
            seeds=np.array(seeds[e : e + 1]),
            policy=np.array([first + e]),
            outcome={"margin": margin[None, e], "win": win[None, e]},
        )


def mixture(first: Behaviour, second: Behaviour, share: float) -> Behaviour:
    return lambda obs: np.float32(share) * first(obs) + np.float32(1 - share) * second(obs)
