"""Train the behaviours `medium`, `replay` and `expert` of a MAMuJoCo task.

    python -m datasets.recipes.train_mamujoco halfcheetah-2x3 --work FOLDER

MAPPO (`datasets/recipes/mappo.py`) with an actor for each agent and a critic on all observations.
The files in `datasets/behaviours/mamujoco-*` are what this command wrote; their mappo.csv says what
each snapshot reached, and its row named `expert` is what 100 means. One core needs 5 to 15 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmark.envs.actor import BEHAVIOURS
from benchmark.errors import unknown_name
from datasets.recipes.mappo import Mappo, publish, train

# Steps of the environment, by what a body's simulator costs
ENV_STEPS = {
    "halfcheetah-2x3": 4_000_000,
    "halfcheetah-6x1": 2_000_000,
    "hopper-3x1": 3_000_000,
    "ant-2x4": 1_500_000,
    "ant-4x2": 1_500_000,
    "walker2d-2x3": 2_500_000,
    "swimmer-2x1": 1_500_000,
}


@dataclass(frozen=True)
class Args:
    name: Annotated[str, tyro.conf.Positional]  # body and partition, such as halfcheetah-2x3
    work: Path  # folder of the checkpoint and the snapshots
    out: Path | None = None  # default: the committed behaviours


def settings(name: str) -> Mappo:
    if name not in ENV_STEPS:
        raise unknown_name("body and partition", name, ENV_STEPS)
    return Mappo(
        task=f"mamujoco/{name}-v1",
        env_steps=ENV_STEPS[name],
        lr=1e-3,
        critic_width=64,
        std=(0.5, 0.1),
        episodes=8,
        first_snapshot=60_000,
    )


def main(args: Args) -> None:
    config = settings(args.name)
    rows = train(config, args.work)
    publish(config, args.work, args.out or BEHAVIOURS / f"mamujoco-{args.name}", rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Args))
