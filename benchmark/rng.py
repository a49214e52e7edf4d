"""The global generators of torch, NumPy and Python as one value that fits in a checkpoint.

The suite's own algorithms draw from generators of their seeds; plug-ins may use the global ones.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

State = dict[str, Any]


def get_state() -> State:
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), np.asarray(keys).astype(np.int64), position, has_gauss, cached],
        "python": [version, np.asarray(internal, np.int64), gauss],
    }


def set_state(state: State) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys).astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(np.asarray(internal).tolist()), gauss))


def seeded(seed: int) -> State:
    """The state of all three after seeding them with `seed`; the current state is kept."""
    outside = get_state()
    seed_all(seed)
    inside = get_state()
    set_state(outside)
    return inside


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
