"""Train the behaviours `medium`, `replay` and `expert` of a MAMuJoCo task.

    python -m datasets.recipes.train_mamujoco halfcheetah-2x3 --work FOLDER

MAPPO (`datasets/recipes/mappo.py`) with an actor for each agent and a critic on all observations.
The files in `datasets/behaviours/mamujoco-*` are what this command wrote; their mappo.csv says what
each snapshot reached, and its row named `expert` is what 100 means. One core needs 5 to 15 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmark.envs.actor import BEHAVIOURS
from benchmark.errors import unknown_name
from datasets.recipes.mappo import Mappo, publish, train

# Slow simulators and bodies that fall: fewer samples an iteration, and less noise from the start,
# since with a width of 0.5 Hopper learns to stand still
FALLING: dict[str, Any] = {"n_envs": 32, "epochs": 10, "std": (0.3, 0.1), "gamma": 0.995}
SETTINGS: dict[str, dict[str, Any]] = {
    "halfcheetah-2x3": {"env_steps": 4_000_000},
    "halfcheetah-6x1": {"env_steps": 2_000_000},
    "hopper-3x1": {"env_steps": 2_000_000} | FALLING,
    "ant-2x4": {"env_steps": 1_500_000} | FALLING,
    "ant-4x2": {"env_steps": 1_500_000} | FALLING,
    "walker2d-2x3": {"env_steps": 2_500_000} | FALLING,
    # Its gait pays off late: a discount of 0.99 keeps it still
    "swimmer-2x1": {"env_steps": 1_500_000, "gamma": 0.9999, "lam": 0.98},
}


@dataclass(frozen=True)
class Args:
    name: Annotated[str, tyro.conf.Positional]  # body and partition, such as halfcheetah-2x3
    work: Path  # folder of the checkpoint and the snapshots
    out: Path | None = None  # default: the committed behaviours


def settings(name: str) -> Mappo:
    if name not in SETTINGS:
        raise unknown_name("body and partition", name, SETTINGS)
    common = Mappo(
        task=f"mamujoco/{name}-v1",
        lr=1e-3,
        critic_width=64,
        std=(0.5, 0.1),
        episodes=8,
        first_snapshot=60_000,
    )
    return replace(common, **SETTINGS[name])


def main(args: Args) -> None:
    config = settings(args.name)
    rows = train(config, args.work)
    publish(config, args.work, args.out or BEHAVIOURS / f"mamujoco-{args.name}", rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Args))
