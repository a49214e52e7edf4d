"""The committed records: each is valid, stands where its name says, and has a clean commit."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest

import algorithms
import datasets
from benchmark import provenance, record, registry
from benchmark.cli import board
from benchmark.protocol import PROTOCOLS
from leaderboard import verify
from tests.conftest import ROOT

RESULTS = ROOT / "leaderboard" / "results"
PATHS = sorted(RESULTS.rglob("*.json"))
SEARCHES = sorted((ROOT / "leaderboard" / "tuning").glob("*.json"))
MAIN = ("meanfield/squeeze-n1000/medium-v1", "mpe/spread/medium-v1")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_a_committed_record_can_be_believed(path: Path) -> None:
    found = record.read(path)
    assert found.path(RESULTS) == path
    assert record.to_json(found) == path.read_text()
    assert not found.provenance.dirty
    assert found.provenance.commit
    assert found.rankable
    if found.track != "online":
        assert found.dataset_sha256 in datasets.card(found.dataset)["content_sha256"]
    else:
        assert not found.dataset
        assert not found.dataset_sha256
    assert registry.task(found.task).reference() is not None
    assert len(found.team_returns) == PROTOCOLS[found.protocol].episodes
    assert found.first_episode_seed == PROTOCOLS[found.protocol].evaluation_seeds()[0]
    spec = registry.task(found.task).spec
    mean = [sum(row) / len(row) for row in found.returns]  # one group in every task so far
    assert len(spec.groups) == 1
    assert mean == pytest.approx(found.team_returns)


@pytest.mark.parametrize("dataset", MAIN)
@pytest.mark.parametrize("floor", ["bc", "random"])
def test_floors_of_the_main_datasets_are_those_of_todays_code(dataset: str, floor: str) -> None:
    """Else every `make bench` would train them again; make them with `make grid`."""
    own = [record.read(path) for path in (RESULTS / dataset / floor).glob("quick-*.json")]
    code = provenance.code_sha256(algorithms.registry().cls(floor))
    assert {item.seed for item in own if provenance.first_code(item.code_sha256) == code} >= {
        0,
        1,
        2,
    }


def test_records_are_named_by_the_key_of_their_own_run() -> None:
    """`make bench` finds a floor's records by that name, and trains it again where it does not."""
    for path, item, faults in verify.results(RESULTS, board.suite()):
        assert not faults, path
        assert item is not None
        assert path.name == f"{item.protocol}-seed{item.seed}-{item.key[:12]}.json"


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_what_runs_and_what_ran_is_what_the_committed_search_chose(path: Path) -> None:
    search = json.loads(path.read_text())
    name, tried = search["algo"], search["configurations"]
    assert path.stem in (name, f"{name}--{search['family'].rstrip('/')}")
    (chosen,) = [entry for entry in tried if entry["chosen"]]
    cls = algorithms.registry().cls(name)
    variant = cls.variants["default"]
    overrides, steps = variant.resolve(search["task"], "quick")
    config = dataclasses.asdict(cls.Config(**overrides))
    assert {key: config[key] for key in chosen["config"]} == chosen["config"]
    if variant.track == "offline":
        assert steps == chosen["steps"]
    tuned = variant.tuned(search["task"])
    assert tuned.configs_tried == len(tried) == search["configs_tried"] <= 8
    assert tuned.online_episodes == search["online_episodes"]
    code = provenance.code_sha256(cls)
    for ran in RESULTS.glob(f"{search['family']}*/*/{name}/quick-*.json"):
        item = record.read(ran)
        if provenance.first_code(item.code_sha256) == code:
            # the range of a task's returns is the task's, and was not searched
            free = {"v_min", "v_max"} if item.task != search["task"] else set()
            wanted = {key: value for key, value in chosen["config"].items() if key not in free}
            assert {key: item.config[key] for key in wanted} == wanted
            assert item.tuning.configs_tried == len(tried)


def test_a_header_may_tell_what_runs_showed_and_code_may_not_change(tmp_path: Path) -> None:
    def code(text: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "mine.py").write_text(text)
        found = importlib.util.spec_from_file_location(folder.name, folder / "mine.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        sys.modules[folder.name] = module  # where `inspect` looks for a class's file
        try:
            return provenance.code_sha256(module.Mine)
        finally:
            del sys.modules[folder.name]

    body = "\nclass Mine:\n    '''What it is.'''\n    lr = {}\n"
    same = {
        code('"""A header."""' + body.format(1)),
        code('"""Other\n\nwords."""' + body.format(1)),
    }
    assert len(same) == 1
    assert code('"""A header."""' + body.format(2)) not in same
    assert code(body.format(1)) == code(body.format(1))
    assert code(body.format(1)) != code(body.format(2))
