"""Where a run's data stand: on its device while there is room, else in the host's memory."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

SHARE = 0.5  # of a GPU's free memory that data may take; the rest is for networks and updates


def sent(x: Tensor, device: str | torch.device) -> Tensor:
    """A tensor of the host's on the device; nobody waits until it is there."""
    if torch.device(device).type == "cuda":
        x = x.pin_memory()  # a copy from other memory makes the host wait
    return x.to(device, non_blocking=True)


def fits(what: str, n_bytes: int, device: str) -> bool:
    """Whether data may stand on the device; a note where they may not."""
    if not device.startswith("cuda"):
        return True
    room = math.floor(SHARE * torch.cuda.mem_get_info(device)[0])
    if n_bytes > room:
        why = f"needs {n_bytes / 1e6:,.0f} MB, and half of its free memory is {room / 1e6:,.0f} MB"
        say_copied(what, why, device)
    return n_bytes <= room


def say_copied(what: str, why: str, device: str) -> None:
    """One line on stderr: this run is slower than it could be."""
    print(f"note: {what} {why}; every batch is copied to {device}.", file=sys.stderr)
