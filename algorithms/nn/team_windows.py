"""Windows of a team's episodes around a present step, as a planner learns from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from algorithms.nn.planning import Normaliser
from benchmark.batch import Batch


class Windows(NamedTuple):
    """T = history + horizon steps; the present one is number `history`."""

    x: Tensor  # [B, N, T, F] features, 0 where not valid
    act: Tensor  # [B, N, T, ...]
    valid: Tensor  # [B, N, T] float, 1 inside the episode and while alive
    row: Tensor  # [B] the data's row of the present step
    weight: Tensor  # [B]


def team_windows(
    batch: Batch, normaliser: Normaliser, starts: Tensor, history: int, back: Tensor
) -> Windows:
    """Windows of one seed's batch; starts [E + 1] are the first rows of the data's episodes.

    A window from an episode's first step is moved back by `back` [B], 0 .. history steps, so that a
    present without a full past is also seen; it weighs as much as the windows that it stands for.
    """
    x = normaliser(batch.obs).transpose(1, 2)
    act = batch.act.transpose(1, 2)
    alive = batch.valid.unsqueeze(-1) if batch.alive is None else batch.alive
    valid = (alive & batch.valid.unsqueeze(-1)).expand(-1, -1, x.shape[1]).transpose(1, 2)
    first = batch.step == 0
    back = back * first
    at = torch.arange(x.shape[2], device=x.device) - back[:, None]  # [B, T]
    inside, at = (at >= 0)[:, None], at.clamp(min=0)
    rows = torch.arange(len(x), device=x.device)[:, None]
    x, act, valid = (y.transpose(1, 2)[rows, at].transpose(1, 2) for y in (x, act, valid))
    seen = (valid & inside).float()
    row = starts[batch.episode] + batch.step + history - back
    row = row.minimum(starts[batch.episode + 1] - 1)
    return Windows(x * seen.unsqueeze(-1), act, seen, row, 1 + history * first.float())
