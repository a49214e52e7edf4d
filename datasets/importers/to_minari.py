"""A dataset of this suite as Minari 0.5 has them, agents as keys of Dict spaces; see `minari`.

Lost: log-probabilities, alive and active, behaviour ids, outcomes, the population's distribution.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import UserError
from benchmark.task import Array

if TYPE_CHECKING:
    from datasets.loader import Dataset

MAX_AGENTS = 64  # an array per agent and episode does not suit populations


def write(data: Dataset, root: Path) -> Path:
    """Write a dataset of this suite as Minari's, under the same id; returns its folder.

    Raises UserError where Minari is not installed, the folder exists, or there are too many agents.
    """
    spec = data.spec
    target = root / data.id
    if spec.n_agents > MAX_AGENTS:
        raise UserError(
            f"{data.id} has {spec.n_agents} agents, Minari's layout is for at most {MAX_AGENTS}."
        )
    if target.exists():
        raise UserError(f"{target} is there already; remove it, or give another --out.")
    try:
        import minari
    except ModuleNotFoundError as error:
        raise UserError(
            "export needs the package minari; install it with"
            " `pip install 'offline-marl-bench[formats]'`."
        ) from error
    from minari.data_collector import EpisodeBuffer

    seen, done = _spaces(data)
    root.mkdir(parents=True, exist_ok=True)
    licence = data.card.get("licence", "unknown")
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=root) as temporary, _root(temporary):
        buffers: Any = (EpisodeBuffer(**_buffer(data, e)) for e in range(data.n_episodes))
        minari.create_dataset_from_buffers(
            data.id,
            buffers,
            observation_space=seen,
            action_space=done,
            algorithm_name="offline-marl-bench",
            description=f"{data.id} of {spec.id}; licence {licence}; {data.content_sha256}",
            author="offline-marl-bench",
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        (Path(temporary) / data.id).rename(target)
    return target


@contextlib.contextmanager
def _root(folder: str) -> Iterator[None]:
    """Minari writes under an environment variable, and warns of all that is left unsaid."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = folder
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _spaces(data: Dataset) -> tuple[Any, Any]:
    """Dict spaces keyed by agent, as gymnasium has them."""
    from gymnasium import spaces

    spec = data.spec
    seen: dict[str, Any] = {}
    done: dict[str, Any] = {}
    agents = iter(spec.agents())
    for group in spec.groups:
        for _ in range(group.n_agents):
            agent = next(agents)
            box = spaces.Box(-math.inf, math.inf, (group.obs_dim,), np.float32)
            seen[agent] = box if spec.n_obs is None else spaces.Discrete(spec.n_obs)
            done[agent] = (
                spaces.Box(-1, 1, (group.act_dim,), np.float32)
                if spec.n_actions is None
                else spaces.Discrete(spec.n_actions)
            )
    return spaces.Dict(seen), spaces.Dict(done)


def _buffer(data: Dataset, e: int) -> dict[str, Any]:
    """What an `EpisodeBuffer` of episode e holds."""
    rows = slice(int(data.starts[e]), int(data.starts[e + 1]))
    obs: dict[str, Array] = {}
    act: dict[str, Array] = {}
    rew = []
    agents = iter(data.spec.agents())
    for group in data.spec.groups:
        at = f"steps/{group.name}"
        final = data.arrays[f"final/{group.name}/obs"][e]
        seen = np.concatenate([data.arrays[f"{at}/obs"][rows], final[None]])  # [T + 1, n, D]
        taken = data.arrays[f"{at}/act"][rows]
        rew.append(data.arrays[f"{at}/rew"][rows])
        for i in range(group.n_agents):
            agent = next(agents)
            finite = data.spec.n_obs is not None
            obs[agent] = seen[:, i, 0].astype(np.int64) if finite else seen[:, i]
            act[agent] = taken[:, i].astype(np.int64) if data.spec.discrete else taken[:, i]
    ends = np.zeros(rows.stop - rows.start, bool)
    last = np.append(ends[:-1], True)
    over = bool(data.terminated[e])
    return {
        "id": e,
        "seed": int(data.seeds[e]),
        "observations": obs,
        "actions": act,
        "rewards": np.concatenate(rew, 1),
        "terminations": last if over else ends,
        "truncations": ends if over else last,
    }
