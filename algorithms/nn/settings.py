"""Bounds of the settings of an algorithm, and the sentence that a wrong one is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.errors import UserError

Bounds = Mapping[str, tuple[float, float]]
BOUNDS: Bounds = {  # of settings that many have; both ends are allowed
    "batch_size": (1, 2**20),
    "agents": (1, 2**20),
    "width": (1, 2**14),
    "depth": (1, 64),
    "critic_depth": (1, 64),
    "lr": (1e-12, 1.0),
    "gamma": (0.0, 1.0),
    "tau": (1e-12, 1.0),
}

PROBE: dict[str, Any] = {  # a family of settings: one observation needs no more; not searched
    "width": 32,
    "batch_size": 64,
    "lr": 3e-3,
    "steps": {"smoke": 50, "quick": 1_000, "full": 10_000},
}


def check_settings(
    config: Any, bounds: Bounds, choices: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    """Raise UserError for a setting outside its bounds, which add to BOUNDS, or its choices."""
    shared = {name: ends for name, ends in BOUNDS.items() if hasattr(config, name)}
    for name, (low, high) in (shared | dict(bounds)).items():
        value = getattr(config, name)
        if not low <= value <= high:  # NaN is outside too
            raise UserError(f"--config.{name} is {value}, expected {low:g} to {high:g}.")
    for name, allowed in (choices or {}).items():
        value = getattr(config, name)
        if value not in allowed:
            raise UserError(f"--config.{name} is {value!r}, expected {', '.join(allowed)}.")
