"""plots: every figure of the board, of its games and across datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import registry
from benchmark.cli import board
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Plots
    from benchmark.record import Record
    from benchmark.task import Array
    from leaderboard.rows import Row

Figure = tuple[str, str, Callable[[Path], None]]  # kind, name of the file, what draws it


def run(options: Plots) -> int:
    """Draw each figure as PNG and SVG; what has no data is left out."""
    rows = board.select(board.rows_of(board.read(options.records)), options.where)
    for kind, name, draw in figures(rows, options.checkpoints):
        if options.kinds and kind not in options.kinds:
            continue
        for suffix in ("png", "svg"):
            path = options.out / f"{name.replace('/', '--')}.{suffix}"
            try:
                draw(path)
            except UserError as error:
                if options.kinds:
                    print(error)
                break
            print(f"wrote {path}")
    return 0


def figures(rows: Sequence[Row], checkpoints: Sequence[Path] = ()) -> Iterator[Figure]:
    """Every figure that rows have data for: of each board, of each game, across datasets."""
    from benchmark.cli import claims
    from leaderboard import aggregate, plots, plots_across, plots_games, plots_studies
    from leaderboard.rows import by_board

    for one, own in by_board(rows).items():
        name = one.title + ("" if one.track in ("offline", "model") else f"--{one.track}")
        name += "" if one.protocol == "quick" else f"--{one.protocol}"
        records: list[Record] = [run for row in own for run in row.runs]
        if not records:
            continue
        yield "bars", name, partial(plots.comparison, own)
        if any(record.curve for record in records):
            yield "curves", f"{name}--curves", partial(plots.curves, records, rows=own)
        if any(row.score for row in own):
            yield "cost", f"{name}--cost", partial(plots_across.pareto, own)
        if any(row.runs and row.exploitability for row in own):
            drawn = partial(plots_games.exploitability, own)
            yield "exploitability", f"{name}--exploitability", drawn
    for task_id in sorted({row.board.task for row in rows}):
        named = flows(task_id, checkpoints)
        if named:
            yield "flow", f"{task_id}--flow", partial(plots_games.flows, task_id, named)
    for summary in aggregate.summaries(rows):
        name = f"{summary.group.namespace}--{summary.group.track}-{summary.group.protocol}"
        yield "profiles", f"{name}--profiles", partial(plots_across.profiles, summary)
    for namespace, protocol in sorted(
        {(r.board.task.split("/")[0], r.board.protocol) for r in rows if r.board.track == "offline"}
    ):
        own = [r for r in rows if r.board.track == "offline" and r.board.protocol == protocol]
        own = [r for r in own if r.board.task.split("/")[0] == namespace]
        yield "tiers", f"{namespace}--{protocol}--tiers", partial(plots_across.tiers, own)
    yield "size", "sizes", partial(plots_across.by_size, rows)
    yield "papers", "papers", partial(_papers, rows)
    for name, draw in plots_studies.FIGURES.items():
        yield "studies", f"studies--{name}", partial(draw, claims.studies())


def _papers(rows: Sequence[Row], path: Path) -> None:
    from benchmark.cli import claims
    from leaderboard import plots_across

    plots_across.papers(rows, claims.findings(rows), path)


def flows(task_id: str, checkpoints: Sequence[Path]) -> dict[str, Array]:
    """mu[t, o] of the equilibrium, of uniform play (the floor) and of trained policies; {} where
    the task is no finite game of more than one observation.
    """
    from benchmark.envs.meanfield import solve

    model = registry.task(task_id).model()
    if model is None or model.n_obs == 1:
        return {}
    named = {"equilibrium": model.solve(), "uniform play (floor)": solve.uniform_policy(model)}
    for path in checkpoints:
        import algorithms

        policy = algorithms.load(path)
        if policy.task.spec.id == task_id:
            named[path.parent.name] = policy.policy_table()
    return {name: solve.flow(model, table) for name, table in named.items()}
