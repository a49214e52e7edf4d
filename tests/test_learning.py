"""Every learner learns something real: from expert data it plays far above random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import algorithms
from benchmark import cli, record, registry
from datasets.recipe import plan
from tests.conftest import bench

pytestmark = pytest.mark.slow

EXPERT = {"continuous": "mpe/spread/expert-v1", "finite": "meanfield/squeeze-n100/expert-v1"}
# Minutes a seed, and 37 to 50 at their end, see their headers: too slow to be tested here. The
# others look for equilibria, which the shared reward of the game below does not reward.
OWN_TESTS = {"diffusion_ql", "dof", "madiff", "mfcql", "offmmd", "tmfpg"}
LEARNERS = [name for name in algorithms.names() if name not in OWN_TESTS | {"random"}]
MOST_STEPS = {"continuous": 2_500, "finite": 1_500}  # else what the quick protocol gives


def cases() -> list[Any]:
    """Each offline learner and its gradient steps, on a team if it takes one, else on a game; the
    floor on both. Settings that no search has chosen yet may be poor, and would say little.
    """
    found = []
    for name in LEARNERS:
        cls = algorithms.registry().cls(name)
        variant, taken = cls.variants["default"], list[str]()
        for kind, dataset in EXPERT.items():
            other = {"continuous": "finite", "finite": "continuous"}[kind]
            suits = other not in cls.requires and variant.track == "offline"
            if suits and (kind == "continuous" or "continuous" not in taken or name == "bc"):
                taken.append(kind)
                task = plan(dataset).task.spec.id
                steps = min(variant.resolve(task, "quick")[1], MOST_STEPS[kind])
                if kind == "finite" or variant.tuned(task).configs_tried:
                    found.append(pytest.param(name, dataset, steps))
    return found


@pytest.fixture(scope="module")
def experts(data_root: Path) -> None:
    assert bench("data", *EXPERT.values()).returncode == 0


@pytest.mark.parametrize(("name", "dataset", "steps"), cases())
def test_expert_data_make_an_expert(
    name: str, dataset: str, steps: int, experts: None, tmp_path: Path
) -> None:
    options = f"--protocol smoke --progress none --out {tmp_path} --steps {steps}"
    assert cli.main(["train", name, dataset, *options.split()]) == 0
    (made,) = record.read_all([tmp_path / "records"])
    reference = registry.task(made.task).reference()
    assert reference is not None
    score = reference.score("return", made.mean_return())
    assert score > 30, f"{name} scores {score:.1f} on {dataset}"


def test_a_plugin_from_outside_the_checkout_is_benched_beside_the_floors(
    data_root: Path, tmp_path: Path
) -> None:
    source = Path(__file__).parent / "plugins" / "plain_net.py"
    plugin = tmp_path / "elsewhere" / "mine.py"
    plugin.parent.mkdir()
    plugin.write_text(source.read_text())
    words = f"mine --plugin {plugin} --protocol smoke --out {tmp_path / 'runs'}"
    done = bench("bench", *words.split(), "--dataset", "meanfield/squeeze-n100/medium-v1")
    assert done.returncode == 0, done.stderr
    for row in ("mine", "bc (floor)", "random (floor)", "dataset mean (floor)"):
        assert row in done.stdout
    assert bench("check", "--algo", "mine", "--plugin", plugin).returncode == 0
