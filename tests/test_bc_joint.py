"""Joint BC: its likelihood against plain formulas, the order of drawing, and the modes it keeps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from algorithms.bc import BC
from algorithms.bc_joint import LOG_STD, BCJoint, BCJointConfig, mixture_log_density
from benchmark import registry
from benchmark.algorithm import build_group
from benchmark.checks.fixtures import CHOICE, TEAM, ToyDataset, toy_dataset
from benchmark.envs import probe
from benchmark.errors import UserError
from benchmark.task import Array
from datasets.recipes import probe as recipe
from tests.studies.joint_modes import joint_law

torch.set_num_threads(1)

SMALL: dict[str, Any] = {"width": 16, "batch_size": 64, "lr": 1e-2, "compile": "off"}


def one_step(name: str, tier: str, n_episodes: int = 4_000) -> ToyDataset:
    """Data of a probe in memory."""
    task = registry.task(name)
    _, act = recipe.draw(task, tier, n_episodes, np.random.default_rng(0))
    n = task.spec.n_agents
    dtype: Any = np.int64 if task.spec.discrete else np.float32
    obs = np.full((n_episodes, n, 1), 0 if task.spec.discrete else 1, dtype)
    return ToyDataset(
        id=name.replace("-v1", f"/{tier}-v1"),
        spec=task.spec,
        starts=np.arange(n_episodes + 1),
        returns=np.zeros((n_episodes, n)),
        obs=obs,
        act=act,
        rew=np.zeros((n_episodes, n), np.float32),
        policy=np.zeros(n_episodes, np.int64),
        next_obs=obs,
    )


def fit(
    cls: Any, data: ToyDataset, steps: int, seeds: tuple[int, ...] = (0,), **config: Any
) -> Any:
    group = build_group(cls, cls.Config(**(SMALL | config)), data.spec, seeds)
    rngs = [np.random.default_rng([seed, 0]) for seed in seeds]
    group.prepare(data, steps, rngs)
    for _ in range(steps):
        group.update(group.sample(data, rngs))
    return group


# ------------------------------------------------------------------------------------ likelihood
def test_a_mixture_is_the_sum_of_its_gaussians() -> None:
    gen = torch.Generator().manual_seed(0)
    log_weights = torch.randn(4, 3, generator=gen).log_softmax(-1)
    mean, log_std = (torch.randn(4, 3, 2, generator=gen) for _ in range(2))
    act, mask = torch.randn(4, 2, generator=gen), torch.tensor([1.0, 0.0])
    found = mixture_log_density(log_weights, mean, log_std, act, mask)
    for row in range(4):
        total = 0.0
        for c in range(3):
            std = math.exp(log_std[row, c, 0])
            away = (act[row, 0] - mean[row, c, 0]).item() / std
            total += math.exp(log_weights[row, c] - away**2 / 2) / (std * math.sqrt(2 * math.pi))
        assert found[row].item() == pytest.approx(math.log(total), rel=1e-4)


def test_probabilities_of_all_joint_actions_sum_to_one() -> None:
    algorithm = fit(BCJoint, toy_dataset(CHOICE), 5)
    cells = torch.tensor(list(itertools.product(range(3), repeat=2))).T[None]  # [1, 2, 9]
    obs = torch.randn(1, 2, 1, 4, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 9, -1)
    logp = algorithm.log_prob(obs, cells, torch.zeros_like(cells))
    assert logp.sum(1).exp().sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("spec", [TEAM, CHOICE], ids=lambda spec: spec.id)
def test_an_agent_depends_on_the_actions_before_its_own_only(spec: Any) -> None:
    data = toy_dataset(spec)
    algorithm = fit(BCJoint, data, 20)
    obs = torch.as_tensor(data.obs[:16]).transpose(0, 1)[None]
    act = torch.as_tensor(data.act[:16]).transpose(0, 1)[None]
    act = act.long() if spec.discrete else act
    step = torch.zeros(1, 2, 16, dtype=torch.int64)
    before = algorithm.log_prob(obs, act, step)
    for agent in range(2):
        other = act.clone()
        other[:, agent] = (other[:, agent] + 1) % 3 if spec.discrete else -other[:, agent]
        moved = (algorithm.log_prob(obs, other, step) - before).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [agent == 0, True]


def test_dead_agents_have_no_part_in_a_prefix() -> None:
    data = toy_dataset(TEAM)
    algorithm = fit(BCJoint, data, 20)
    obs = torch.as_tensor(data.obs[:16]).transpose(0, 1)[None]
    act = torch.as_tensor(data.act[:16]).transpose(0, 1)[None]
    step = torch.zeros(1, 2, 16, dtype=torch.int64)
    alive = torch.ones(1, 2, 16)
    alive[:, 0] = 0
    other = act.clone()
    other[:, 0] = 0.5
    with_data, with_other = (algorithm.log_prob(obs, a, step, alive)[:, 1] for a in (act, other))
    assert torch.equal(with_data, with_other)


# ---------------------------------------------------------------------------------------- acting
def law_of(algorithm: BCJoint, episodes: int) -> Array:
    spec, k = algorithm.spec, len(algorithm.seeds)
    algorithm.begin(episodes, 3)
    obs = np.full((k, episodes, spec.n_agents, 1), 0 if spec.discrete else 1)
    obs = obs if spec.discrete else obs.astype(np.float32)
    return algorithm.act(obs, None, None, 0, False)


def test_draws_have_the_probabilities_of_the_model() -> None:
    data = one_step("probe/mne-v1", "mixed")
    algorithm = fit(BCJoint, data, 60)
    wanted = joint_law(algorithm)[0]
    found = probe.joint_law(law_of(algorithm, 20_000)[0])
    assert probe.total_variation(found, wanted) < 0.02


def test_a_forbidden_action_is_what_the_next_agent_knows_was_not_played() -> None:
    """Two modes, all 0 and all 1; the first agent may only play 1, and the others follow."""
    algorithm = fit(BCJoint, one_step("probe/modes-n3-v1", "two-mode"), 150)
    algorithm.begin(500, 0)
    mask = np.ones((1, 500, 3, 2), bool)
    mask[:, :, 0, 0] = False
    act = algorithm.act(np.zeros((1, 500, 3, 1), np.int64), None, mask, 0, False)
    assert (act[:, :, 0] == 1).all()
    assert (act == 1).mean() > 0.95


def test_the_greedy_joint_action_is_a_mode() -> None:
    algorithm = fit(BCJoint, one_step("probe/bandit-v1", "two-mode"), 250, components=4)
    algorithm.begin(1, 0)
    act = algorithm.act(np.ones((1, 1, 2, 1), np.float32), None, None, 0, True)[0, 0, :, 0]
    assert act[0] == pytest.approx(act[1], abs=0.2)
    assert np.abs(act) == pytest.approx(0.8, abs=0.2)


# ----------------------------------------------------------------------------------- joint modes
@pytest.mark.parametrize("n", [2, 4])
def test_factorised_cloning_loses_the_modes_that_joint_cloning_keeps(n: int) -> None:
    data = one_step(f"probe/modes-n{n}-v1", "two-mode")
    truth = recipe.law(registry.task(data.spec.id), "two-mode")
    alone, joint = (
        probe.total_variation(joint_law(fit(cls, data, 150, depth=1))[0], truth)
        for cls in (BC, BCJoint)
    )
    assert alone == pytest.approx(probe.factorised_distance(n), abs=0.03)
    assert joint < 0.06


def test_continuous_modes_are_kept_together() -> None:
    """The bandit: both agents have one sign, either as often as the other."""
    algorithm = fit(BCJoint, one_step("probe/bandit-v1", "two-mode"), 250, components=4)
    act = law_of(algorithm, 4_000)[0]
    law = probe.joint_law(act)
    assert law[0, 0] + law[1, 1] > 0.97
    assert 0.3 < law[1, 1] < 0.7
    assert np.abs(act).mean() == pytest.approx(0.8, abs=0.1)
    assert math.exp(LOG_STD[0]) < 0.1  # the data's spread can be fitted


# --------------------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("option", "value"),
    [("width", 0), ("depth", 0), ("components", 0), ("batch_size", 0), ("agents", 0), ("lr", -1.0)],
)
def test_an_option_out_of_range_is_named(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"--config\.{option} is {value}, expected "):
        BCJoint(BCJointConfig(**(SMALL | {option: value})), TEAM, (0,))
