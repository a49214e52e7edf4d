"""References: enough episodes, seeds of their own, and files that say what was measured."""

import re
import tomllib

import numpy as np
import pytest

from benchmark import reference as references
from benchmark import registry
from benchmark import task as tasks
from benchmark.envs.meanfield.game import TablePolicy
from benchmark.errors import UserError
from benchmark.protocol import EVALUATION_SEEDS, RECIPE_SEEDS, REFERENCE_SEEDS, TUNING_SEEDS
from benchmark.reference import (
    UniformPolicy,
    check_seeds,
    compute_reference,
    values,
    write_reference,
)
from benchmark.task import Group, Reference, TaskSpec


@pytest.mark.parametrize("name", ["meanfield/squeeze-n100-v1", "meanfield/beach-bar-n256-v1"])
def test_committed_references_can_be_measured_again(name):
    task = registry.task(name)
    committed = task.reference()
    again = compute_reference(task, committed.episodes)
    gap = committed.expert - committed.random
    assert abs(again.random - committed.random) < 1e-9 * gap
    assert abs(again.expert - committed.expert) < 1e-9 * gap
    assert again.episodes == committed.episodes


def test_episodes_are_added_until_both_errors_are_small():
    reference = compute_reference(registry.task("meanfield/beach-bar-n64-v1"), episodes=20)
    gap = reference.expert - reference.random
    assert reference.episodes > 20
    assert max(reference.random_sem, reference.expert_sem) <= 0.01 * gap
    reference.check()


def test_the_standard_error_is_that_of_the_team_returns():
    task = registry.task("meanfield/squeeze-n16-v1")
    reference = compute_reference(task, episodes=400)
    assert reference.episodes == 400
    returns = values(task, task.expert(), REFERENCE_SEEDS[:400])
    assert reference.expert == pytest.approx(returns.mean())
    assert reference.expert_sem == pytest.approx(returns.std(ddof=1) / 20)


def test_an_expert_no_better_than_uniform_play_is_refused():
    task = registry.task("meanfield/beach-bar-n16-v1")

    class Worse(type(task)):
        def expert(self):
            worst = np.zeros((10, 10, 3))
            worst[..., 2] = 1  # always moves, always pays for it
            return TablePolicy(worst)

    other = Worse(task.spec.id, 16, task.model(), metric="return")
    with pytest.raises(UserError, match="is not above random"):
        compute_reference(other, episodes=50)


def test_an_equilibrium_that_earns_less_than_uniform_play_is_a_reference():
    reference = compute_reference(registry.task("meanfield/rps-n16-v1"), episodes=50)
    assert reference.expert < reference.random
    assert reference.uniform_exploitability == pytest.approx(1 / 3)


def test_reference_seeds_are_nobody_elses():
    check_seeds(REFERENCE_SEEDS)
    for other in (RECIPE_SEEDS, TUNING_SEEDS, EVALUATION_SEEDS):
        with pytest.raises(UserError, match="overlap"):
            check_seeds(range(other.stop - 1, other.stop + 5))
        assert not set(other) & set(REFERENCE_SEEDS)


def test_a_written_reference_reads_back_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "REFERENCES", tmp_path)
    task = registry.task("meanfield/squeeze-n16-v1")
    assert task.reference() is None
    seen = []
    path = write_reference(task, episodes=400, progress=seen.append)
    assert path == tmp_path / "meanfield--squeeze-n16-v1.toml"
    assert task.reference() == Reference(**tomllib.loads(path.read_text()))
    assert task.reference().packages.keys() == {"numpy"}
    assert sum(seen) == 800  # both policies
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_further_policies_are_recorded_as_lines(monkeypatch):
    task = registry.task("meanfield/squeeze-n16-v1")
    lines = {"the optimum again": task.expert()}
    monkeypatch.setattr(type(task), "reference_lines", lambda self: lines)
    reference = compute_reference(task, episodes=400)
    assert reference.lines == {"the optimum again": pytest.approx(reference.expert)}


def test_returns_come_in_blocks_that_fit_in_memory(monkeypatch):
    task = registry.task("meanfield/beach-bar-n16-v1")
    policy = UniformPolicy(task.spec)
    monkeypatch.setattr(references, "ROWS", 16 * 4)
    sizes = []
    real = references.team_values

    def spy(task, policy, seeds, progress=None):
        sizes.append(len(seeds))
        return real(task, policy, seeds, progress=progress)

    monkeypatch.setattr(references, "team_values", spy)
    assert values(task, policy, range(10)).shape == (10,)
    assert sizes == [4, 4, 2]


def test_too_few_episodes_are_refused():
    with pytest.raises(UserError, match=re.escape("1 episodes, expected at least 2")):
        compute_reference(registry.task("meanfield/squeeze-n16-v1"), episodes=1)


# ---------------------------------------------------------------------------------- uniform play
def spec(**fields):
    return TaskSpec(
        id="test/x-v1", groups=(Group("all", 3, 2, fields.pop("act_dim", 0)),), **fields
    )


def test_uniform_play_covers_a_continuous_action_space():
    policy = UniformPolicy(spec(horizon=1, act_dim=2))
    policy.begin(2_000, 0)
    act = policy.act(np.zeros((2_000, 3, 2)), None, None, 0, False)
    assert act.shape == (2_000, 3, 2)
    assert -1 <= act.min() < -0.99 < 0.99 < act.max() <= 1
    assert act.var() == pytest.approx(1 / 3, abs=0.02)


def test_uniform_play_keeps_to_the_allowed_actions():
    policy = UniformPolicy(spec(horizon=1, n_actions=4))
    policy.begin(2_000, 0)
    mask = np.zeros((2_000, 3, 4), bool)
    mask[..., [1, 3]] = True
    act = policy.act(np.zeros((2_000, 3, 2)), None, mask, 0, False)
    np.testing.assert_allclose(np.bincount(act.ravel()) / act.size, [0, 0.5, 0, 0.5], atol=0.03)
