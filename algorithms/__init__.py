"""One file = one algorithm; the file's name is its name on the command line and on the board.

import algorithms
policy = algorithms.load("runs/checkpoints/bc-0123456789ab/checkpoint-000005001.safetensors")
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.policy import Trained
    from benchmark.registry import Algorithms


def registry(plugins: tuple[str, ...] = ()) -> Algorithms:
    """The algorithms of this folder, of installed plug-ins and of plug-in files."""
    from benchmark.registry import Algorithms

    return Algorithms(sys.modules[__name__], plugins)


def names() -> list[str]:
    """Names of every algorithm."""
    return registry().names()


def load(
    path: Path | str, seed: int | None = None, *, plugins: tuple[str, ...] = (), device: str = "cpu"
) -> Trained:
    """A trained policy from a checkpoint file: `policy.act(obs, t=0)`.

    seed: which of the group's seeds; default: the first. Raises UserError where the file is missing
    or damaged, or the seed is not in it.
    """
    from benchmark.policy import load_policy

    return load_policy(path, registry(plugins), seed, device)
