"""respond: a lower bound of a trained policy's exploitability, by a trained best response."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import algorithms
from benchmark import files
from benchmark.cli.render import find, stem
from benchmark.evaluate import exact
from benchmark.respond import best_response

if TYPE_CHECKING:
    from benchmark.cli.options import Respond


def run(options: Respond) -> int:
    """Print what the response gains and write it to a JSON file."""
    path, member = find(options.run)
    if options.member is not None:
        member = options.member
    found = algorithms.load(path, member, plugins=options.plugin)
    task, seed = found.task, found.group.seeds[found.k]
    response = best_response(task, found, lambda line: print(line, flush=True))
    values = {"algo": found.row, "seed": seed, "task": task.spec.id, "checkpoint": path.name}
    values |= asdict(response)
    print(f"{found.row} seed {seed} on {task.spec.id}, {response.label}:")
    print(f"  exploitability is {response.at_least:.4g} or more, with 97.5% confidence")
    print(
        f"  one agent gains {max(0.0, response.gain):.4g} [{response.low:.4g}, {response.high:.4g}]"
        f" over {response.own:.4g} in {response.episodes} fresh episodes"
    )
    if task.model() is not None:
        try:
            values["exact"] = exact(task, found.policy_table()).get("exploitability")
        except NotImplementedError:
            values["exact"] = None
        if values["exact"] is not None:
            print(f"  the exact one, of its policy table in the limit, is {values['exact']:.4g}")
    name = f"{stem(task.spec.id)}-{found.row}-seed{seed}.json"
    files.write_json(options.out / name, values)
    print(f"wrote {options.out / name}")
    return 0
