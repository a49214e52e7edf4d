"""Losses while training: a JSON-lines file always; TensorBoard and W&B where asked for and
installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from benchmark import files
from benchmark.errors import UserError
from benchmark.record import Curve

Sink = Literal["tensorboard", "wandb"]


class Tracker:
    """Writes the losses of every seed of a group at each log point. A resume rewrites the file up
    to its own step.
    """

    def __init__(
        self, folder: Path, name: str, seeds: Sequence[int], sinks: Sequence[Sink]
    ) -> None:
        self.path, self.seeds = folder / "losses.jsonl", seeds
        self._tensorboard: Any = None
        self._wandb: Any = None
        if "tensorboard" in sinks:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError(
                    "option --track tensorboard needs its package: pip install tensorboard."
                ) from error
            self._tensorboard = SummaryWriter(str(folder / "tensorboard"))
        if "wandb" in sinks:
            try:
                import wandb
            except ImportError as error:
                raise UserError(
                    "option --track wandb needs the package wandb: pip install wandb."
                ) from error
            self._wandb = wandb.init(project="offline-marl-bench", name=name, dir=str(folder))

    def restore(self, curves: list[Curve]) -> None:
        """Begin the file again from the curves of a checkpoint, so that no line stands twice."""
        lines = [
            json.dumps({"seed": seed} | {k: v[i] for k, v in curve.items() if v[i] is not None})
            for seed, curve in zip(self.seeds, curves, strict=True)
            for i in range(len(curve.get("step", [])))
        ]
        files.write_text(self.path, "".join(line + "\n" for line in lines))

    def log(self, step: int, losses: dict[str, list[float]]) -> None:
        """losses: name -> one value per seed; UserError where the disk is full."""
        rows = [
            {name: values[k] for name, values in losses.items()} for k in range(len(self.seeds))
        ]
        try:
            with open(self.path, "a") as handle:
                for seed, row in zip(self.seeds, rows, strict=True):
                    handle.write(json.dumps({"seed": seed, "step": step, **row}) + "\n")
        except OSError as error:
            then = "the same command goes on from the last checkpoint"
            raise files.write_error(self.path, error, then) from error
        for seed, row in zip(self.seeds, rows, strict=True):
            if self._tensorboard:
                for name, value in row.items():
                    self._tensorboard.add_scalar(f"seed{seed}/{name}", value, step)
            if self._wandb:
                self._wandb.log({f"seed{seed}/{n}": v for n, v in row.items()}, step=step)

    def close(self) -> None:
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()
