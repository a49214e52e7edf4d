"""The fixed prey of `mpe/tag-flee` and `mpe/world-flee`: it flees at full force.

It plays from its own observation, in float32 and element by element, so that a batch of episodes
and mpe2's one episode get the same bits. A changed prey is another task: give it another name.
"""

from __future__ import annotations

import numpy as np

from benchmark.task import Array

EDGE, WALL = 0.9, 100.0  # beyond EDGE, where mpe2's prey pays for leaving, it is driven back


def flee(position: Array, hunters: Array, goal: Array | None = None) -> Array:
    """The prey's force [..., xy]: away from each hunter by 1 / distance, back inside, to the goal.

    position [..., xy]; hunters [..., K, xy] relative to the prey, zero where it does not see them;
    goal [..., xy]: a pull that is added. The sum is scaled until its larger component is 1.
    """
    pull = -WALL * np.sign(position) * np.maximum(np.abs(position) - EDGE, 0)
    if goal is not None:
        pull = pull + goal
    for k in range(hunters.shape[-2]):
        hunter = hunters[..., k, :]
        square = hunter[..., 0:1] ** 2 + hunter[..., 1:2] ** 2
        pull = pull - hunter / np.maximum(square, 1e-6)
    return pull / np.maximum(np.abs(pull).max(-1, keepdims=True), 1e-6)
