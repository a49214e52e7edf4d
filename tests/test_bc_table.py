"""Tables of weighted counts, cell by cell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import datasets
from algorithms.bc_table import BCTable
from algorithms.nn.planning import returns_to_go
from benchmark.errors import UserError
from tests.conftest import bench

TURNS = "meanfield/queue-n16-b4/medium-v1"
SQUEEZE = "meanfield/squeeze-n100/medium-v1"


def built(dataset: str, **config: Any) -> tuple[BCTable, datasets.Dataset]:
    data = datasets.load(dataset, make=True)
    made = BCTable(BCTable.Config(**config), data.spec, (0,))
    made.prepare(data, 0, [np.random.default_rng(1)])
    return made, data


def test_without_weights_it_is_the_share_of_moves_in_turns_those_that_counted() -> None:
    made, data = built(TURNS, smooth=1e-9)
    assert data.active is not None
    step = np.arange(data.n_steps) - np.repeat(data.starts[:-1], np.diff(data.starts))
    for t, o in ((0, 0), (5, 2), (data.spec.horizon - 1, 4)):
        here = (step // 4 == t // 4)[:, None] & (data.obs[..., 0] == o) & data.active
        assert here.sum() > 20
        share = [(data.act[here] == a).mean() for a in range(made.table.shape[2])]
        np.testing.assert_allclose(made.policy_table()[t, o], share, atol=1e-9)


def test_the_weights_are_of_the_populations_returns_where_all_are_paid_alike() -> None:
    made, data = built(SQUEEZE, weighting="return", beta_pop=1.0, w_max=1e6, smooth=1e-9)
    team = returns_to_go(data, 1.0).mean(1)
    weight = np.exp((team - team.mean()) / team.std())
    act = np.asarray(data.act)
    share = [(weight[:, None] * (act == a)).sum() for a in range(made.table.shape[2])]
    np.testing.assert_allclose(made.table[0, 0], np.array(share) / sum(share), rtol=1e-5)


def test_weights_of_returns_raise_the_return_of_squeeze() -> None:
    from benchmark import registry
    from benchmark.envs.meanfield import solve

    model = registry.task("meanfield/squeeze-n100-v1").model()
    assert model is not None
    plain, weighted = (built(SQUEEZE, weighting=name)[0].table for name in ("none", "return"))
    assert solve.policy_value(model, weighted) > solve.policy_value(model, plain) + 0.2


def test_a_setting_out_of_range_is_named() -> None:
    with pytest.raises(UserError, match="smooth"):
        built(SQUEEZE, smooth=0.0)


def test_gradient_steps_are_refused(data_root: Path) -> None:
    done = bench("train", "bc_table", SQUEEZE, "--steps", "5")
    assert done.returncode == 2
    assert "option --steps: found 5, expected 0: bc_table" in done.stderr
