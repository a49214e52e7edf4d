"""profile: where the time of an algorithm's update goes, beside its floor."""

from __future__ import annotations

import os

from benchmark.cli.bench import default_source
from benchmark.cli.options import Profile
from benchmark.cli.train import is_task, make_data, plan
from benchmark.errors import UserError


def run(options: Profile) -> int:
    """Print a table for the first group of seeds."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler reports its own start
    from benchmark import profile

    source = default_source(options.algo, options)
    if is_task(source):
        raise UserError(f"{options.algo} is online: its updates wait for a game, {source}.")
    make_data([source])
    first = plan(options.algo, source, options, options.config)[0]
    if not first.steps:
        raise UserError(f"{options.algo} takes no gradient steps: there is nothing to profile.")
    print(
        f"{options.algo} on {source}: seeds {', '.join(map(str, first.seeds))}, one core, CPU time"
    )
    print(profile.table(profile.measure(first, options.seconds), first.seeds))
    return 0
