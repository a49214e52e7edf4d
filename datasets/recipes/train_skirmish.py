"""Trains the behaviours of `skirmish`: one MAPPO policy for every agent, 64 a side.

    python -m datasets.recipes.train_skirmish [--folder datasets/behaviours/battle-skirmish]

A third of the episodes each meets random, hold and rush, so that the policy is strong and not
only a reply to one script. Each agent learns from its own reward, which is the task's with one
change: a death costs 0.6 and not 0.1, as much as a kill earns on average (three lives of 0.6 / 3
each, at 0.12 for an expected damage of 0.6), so that the sum over a team follows the margin. Critic
and actor see the agent's own observation only; nothing in it depends on the number of agents, and
the policy plays any.

Writes `expert.safetensors` (the last weights), `history.safetensors` (snapshots from first to last,
every array with a leading axis) and `training.csv` (margins of each snapshot, sampled play).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from benchmark.envs.battle.skirmish import HORIZON, Skirmish, SkirmishArrays
from benchmark.envs.battle.skirmish_policies import ATTACK, FOLDER, Network, fighter
from benchmark.files import write_bytes, write_text
from benchmark.protocol import TUNING_SEEDS
from benchmark.task import Array, Step
from datasets.recipes.mappo_learner import Learner, Mappo

SCRIPTS = ("random", "hold", "rush")
AGENTS = 64
CONFIG = Mappo(
    task=f"battle/skirmish-n{AGENTS}-rush-v1",
    n_envs=24,
    length=HORIZON,
    env_steps=300_000,
    shared=True,
    critic="own",
    reward="own",
    bootstrap=False,
    width=32,
    critic_width=64,
    epochs=3,
    minibatches=8,
    lr=1e-3,
    gamma=0.98,
    entropy=0.01,
)


class Duels:
    """The opponents' environments side by side, one after the other on the axis of episodes."""

    def __init__(self, parts: Sequence[SkirmishArrays]) -> None:
        self.parts = parts

    def reset(self, seeds: Sequence[int]) -> Array:
        split = np.array_split(np.array(seeds), len(self.parts))
        starts = [part.reset(own.tolist()) for part, own in zip(self.parts, split, strict=True)]
        return np.concatenate(starts)

    def step(self, act: Array) -> Step:
        split = np.array_split(act, len(self.parts))
        before = [part.melee.alive[0] for part in self.parts]
        steps = [part.step(own) for part, own in zip(self.parts, split, strict=True)]
        for part, own, alive, step in zip(self.parts, split, before, steps, strict=True):
            hits = part.in_reach() & (own == ATTACK) & alive
            died = alive & ~part.melee.alive[0]
            step.rew = part.melee.rules.strength * hits - part.melee.rules.lives * died

        def joined(name: str) -> Array:
            return np.concatenate([getattr(one, name) for one in steps])

        return Step(
            obs=joined("obs"),
            rew=joined("rew"),
            terminated=joined("terminated"),
            truncated=joined("truncated"),
            alive=joined("alive"),
        )


class Training(Skirmish):
    """The task against all scripts at once."""

    def arrays(self, n_envs: int) -> Duels:  # type: ignore[override]
        return Duels([SkirmishArrays(self.spec, fighter(name)) for name in SCRIPTS])


def margin(policy: Network, opponent: str, n_agents: int, episodes: int) -> float:
    """Mean margin of sampled play."""
    env = Skirmish(n_agents, opponent).arrays(episodes)
    obs = env.reset([(TUNING_SEEDS[0] << 40) + e for e in range(episodes)])
    policy.begin(episodes, TUNING_SEEDS[0])
    ends = np.full(episodes, np.nan)
    for t in range(HORIZON):
        step = env.step(policy.act(obs, None, None, t, False))
        obs = step.obs
        assert step.outcome is not None
        ends = np.where(
            np.isnan(ends) & (step.terminated | step.truncated), step.outcome["margin"], ends
        )
    return float(ends.mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    learner = Learner(CONFIG, Training(AGENTS, "rush"))
    curve, snapshots = ["iteration,env_steps,cpu_seconds,random,hold,rush,rush_n1024"], []
    iteration = 0
    while True:
        over = learner.env_steps >= CONFIG.env_steps
        if iteration < 20 or iteration % 5 == 0 or over:
            snapshots.append(learner.weights())
            policy = Network(snapshots[-1])
            tests = [margin(policy, name, AGENTS, 32) for name in SCRIPTS]
            tests.append(margin(policy, "rush", 1024, 2))
            row = [iteration, learner.env_steps, round(learner.cpu_seconds, 1)]
            curve.append(",".join([*map(str, row), *(f"{x:.4f}" for x in tests)]))
            print(curve[-1], flush=True)
            write_bytes(folder / "expert.safetensors", save(snapshots[-1]))
            stacked = {name: np.stack([s[name] for s in snapshots]) for name in snapshots[0]}
            write_bytes(folder / "history.safetensors", save(stacked))
            write_text(folder / "training.csv", "\n".join(curve) + "\n")
        if over:
            return
        learner.update()
        iteration += 1


if __name__ == "__main__":
    main()
