"""play: a checkpoint on seeds of one's own, and what it did there as traces of actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import algorithms
from benchmark import checkpoint, files, policy, registry, trace
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Play


def run(options: Play) -> int:
    """Evaluate every seed of a checkpoint's group; with --out, write their traces."""
    if options.first < 0 or options.episodes < 1:
        raise UserError(
            f"options --first and --episodes are {options.first} and {options.episodes}, expected 0"
            " or more and 1 or more."
        )
    state = checkpoint.load(options.checkpoint)
    try:
        row, task_id, seeds = (state["identity"][name] for name in ("algo", "task", "seeds"))
    except (KeyError, TypeError) as error:
        raise UserError(f"checkpoint {options.checkpoint} is not one of this suite's.") from error
    cls, _, _ = algorithms.registry(options.plugin).row(row)
    task = registry.task(task_id)
    episodes = range(options.first, options.first + options.episodes)
    played = policy.play(state, cls, task, episodes)
    team = task.spec.team(played.evaluation.returns)  # [K, E]
    for k, seed in enumerate(seeds):
        if str(seed) in played.failed:
            print(f"{row} seed {seed} failed: {played.failed[str(seed)]}")
            continue
        print(f"{row} seed {seed}: mean team return {team[k].mean():.4g}")
        kept = played.traces[k]
        if options.out and kept is not None:
            files.write_bytes(options.out / f"trace-seed{seed}.safetensors", trace.pack(kept))
    return 0
