"""Trained best responses: below the exact exploitability, near it, and never a claim below 0."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmark import cli, registry, respond
from benchmark.envs.meanfield import solve
from benchmark.envs.meanfield.game import TablePolicy
from benchmark.errors import UserError
from benchmark.protocol import EVALUATION_SEEDS, POPULATION_SEEDS, RESPONSE_SEEDS, TUNING_SEEDS
from benchmark.reference import UniformPolicy
from benchmark.respond import best_response


def of(name: str, share: float) -> tuple[float, respond.Response]:
    """Exact exploitability and response of a mixture: `share` of uniform play, else equilibrium."""
    task = registry.task(f"meanfield/{name}-v1")
    model = task.model()
    assert model is not None
    pi = share * solve.uniform_policy(model) + (1 - share) * model.solve()
    return solve.exploitability(model, pi), best_response(task, TablePolicy(pi))


@pytest.mark.parametrize(
    ("name", "share"), [("beach-bar-n64", 1.0), ("resource-n64", 0.5), ("queue-n64", 1.0)]
)
def test_a_trained_response_finds_most_of_the_exact_exploitability(name, share) -> None:
    exact, found = of(name, share)
    assert 0.8 * exact < found.gain
    assert found.at_least == found.low <= exact
    assert found.low < found.gain < found.high
    assert found.label == "lower bound (trained best response)"


def test_at_an_equilibrium_nothing_is_claimed() -> None:
    exact, found = of("resource-n64", 0.0)
    assert exact < 0.01
    assert 0.0 <= found.at_least < 0.02


def test_a_response_is_measured_with_one_agent_on_seeds_of_its_own(monkeypatch) -> None:
    used, leaving = [], []

    def watched(task, policy, seeds, *rest):
        used.append(list(seeds))
        leaving.append(policy.n_leaving)
        return rollout(task, policy, seeds, *rest)

    def play(task, policy, seeds):
        used.append(seeds)
        return played(task, policy, seeds)

    rollout, played = respond.rollout, respond.play
    monkeypatch.setattr(respond, "rollout", watched)
    monkeypatch.setattr(respond, "play", play)
    of("rps-n64", 1.0)
    *training, left, stayed = used
    assert leaving[-2:] == [1, 1]
    assert left == stayed
    assert not set(left) & {seed for seeds in training for seed in seeds}
    assert {seed for seeds in used for seed in seeds} <= set(RESPONSE_SEEDS)
    for other in (EVALUATION_SEEDS, POPULATION_SEEDS, TUNING_SEEDS):
        assert not set(other) & set(RESPONSE_SEEDS)


def test_a_soldier_gains_by_leaving_an_army_that_plays_at_random(monkeypatch) -> None:
    monkeypatch.setattr(respond, "ROUNDS", 2)
    task = registry.task("battle/skirmish-n16-rush-v1")
    found = best_response(task, UniformPolicy(task.spec), steps=60_000)
    assert found.at_least > 0.1
    assert found.own < 0


def test_a_task_whose_agents_are_not_exchangeable_is_refused() -> None:
    task = registry.task("mpe/spread-v1")
    with pytest.raises(UserError, match="mpe/spread-v1 has continuous actions, expected discrete"):
        best_response(task, UniformPolicy(task.spec))


def test_the_command_writes_what_it_found(shipped: Path, tmp_path: Path, capsys) -> None:
    (checkpoint,) = shipped.glob("checkpoint-*")
    assert cli.main(["respond", str(checkpoint), "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.json")
    values = json.loads(path.read_text())
    assert values["label"] == respond.LABEL
    assert values["at_least"] == max(0.0, values["low"])
    assert np.isfinite(values["gain"])
    assert "or more, with 97.5% confidence" in capsys.readouterr().out
