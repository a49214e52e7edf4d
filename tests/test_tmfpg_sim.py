"""TMF-PG on played populations: its values are the exact ones, and it finds the equilibrium."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from algorithms.nn.game import values
from algorithms.tmfpg_sim import TMFPGSim, TMFPGSimConfig
from benchmark import registry
from benchmark.batch import Batch
from benchmark.envs.meanfield import solve


def played(algorithm: TMFPGSim, name: str, episodes: int, seed: int) -> Batch:
    """All transitions of episodes in which every agent plays the algorithm's policy."""
    task = registry.task(name)
    env, found = task.arrays(episodes), []
    obs = env.reset(range(seed, seed + episodes))
    for t in range(task.spec.horizon):
        act = algorithm.explore(obs, None, None, np.full(episodes, t))
        step = env.step(act)
        on = np.ones(act.shape, bool) if step.active is None else step.active
        found.append((obs, act, step.rew, step.obs, on, np.full(episodes, t)))
        obs = step.obs
    obs_, act_, rew, after, active, at = (
        torch.as_tensor(np.concatenate(parts)) for parts in zip(*found, strict=True)
    )
    flag = torch.zeros(len(at), 1)
    return Batch(
        obs=obs_[:, None],
        act=act_[:, None],
        rew=rew[:, None].float(),
        terminated=flag,
        truncated=flag,
        valid=flag == 0,
        episode=at,
        step=at,
        agent=at,
        next_obs=after[:, None],
        active=active[:, None],
    )


@pytest.mark.parametrize("name", ["meanfield/queue-n1024-v1", "meanfield/resource-n1024-b256-v1"])
def test_counted_parts_are_those_of_the_game(name: str) -> None:
    task = registry.task(name)
    algorithm = TMFPGSim(TMFPGSimConfig(), task.spec, (0,))
    reward, kernel, rho = algorithm._count(played(algorithm, name, 30, 2000))
    model, pi = task.model(), algorithm.policy_table()
    assert rho == pytest.approx(1 / getattr(model, "steps_per_round", 1))
    both = np.nan_to_num(reward), kernel
    _, value = values(*both, pi, rho, chain=False)
    exact = solve.policy_value(model, pi)
    assert float(model.mu0 @ value[0]) == pytest.approx(exact, abs=0.05 * abs(exact))


NAMES = ("queue-n256", "queue-n64-b32", "resource-n16-b2")  # in the last 2 of 16 act at a step


@pytest.mark.parametrize("name", [f"meanfield/{name}-v1" for name in NAMES])
def test_it_comes_near_the_equilibrium(name: str) -> None:
    task = registry.task(name)
    algorithm, model = TMFPGSim(TMFPGSimConfig(), task.spec, (0,)), task.model()
    uniform = solve.exploitability(model, solve.uniform_policy(model))
    assert solve.exploitability(model, algorithm.policy_table()) == pytest.approx(uniform)
    for i in range(60):
        algorithm.update(played(algorithm, name, 8, 2000 + 8 * i))
    assert solve.exploitability(model, algorithm.policy_table()) < 0.25 * uniform


def test_actions_that_nobody_took_keep_their_probabilities() -> None:
    name = "meanfield/queue-n16-v1"
    algorithm = TMFPGSim(TMFPGSimConfig(), registry.task(name).spec, (0,))
    batch = played(algorithm, name, 8, 2000)
    batch.act[:] = 1  # as if everyone had chosen the same queue
    algorithm.update(batch)
    assert np.allclose(algorithm.theta, 0)
