"""submit: the contract, the runs that are missing, and a folder of data that others can verify."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import algorithms
from benchmark import checkpoint, files, policy, record, registry, trace
from benchmark.cli import bench, board
from benchmark.cli import grid as grids
from benchmark.cli.options import Bench, Grid, Submit
from benchmark.errors import UserError
from benchmark.protocol import protocol

if TYPE_CHECKING:
    from benchmark.record import Record
    from benchmark.train import Run
    from leaderboard.rows import Row
    from leaderboard.submission import Ends


def run(options: Submit) -> int:
    from leaderboard import submission

    if not options.algos:
        raise UserError("option ALGO: none was given, expected an algorithm, such as ALGO=mine.")
    name = options.algos[0].split(".")[0]
    if any(row.split(".")[0] != name for row in options.algos):
        raise UserError(
            f"option ALGO: found {' '.join(options.algos)}, expected variants of one algorithm."
        )
    check_contract(name, options)
    runs = finished_runs(options)
    folder = options.submissions / next_id(name, options.submissions)
    blobs: dict[str, bytes] = {}
    records: list[Record] = []
    for item in runs:
        own, more = collect(item, options)
        records += own
        blobs |= more
    rows = board.rows_of([*records, *rivals(records)])
    blobs |= {"plot.png": plot(rows), "report.md": report(folder.name, records, rows, options)}
    manifest = submission.Manifest(
        id=folder.name,
        author=options.author,
        code=options.code,
        protocol=options.protocol,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        references={task: ends(task) for task in sorted({item.task for item in records})},
        files={},
    )
    submission.write(options.submissions, manifest, blobs, check)
    size = sum(map(len, blobs.values())) / 1e6
    print(f"wrote {folder}: {len(records)} records, {size:.1f} MB; read {folder / 'report.md'}")
    print(f"next: commit the folder and open a pull request; make verify SUBMISSION={folder.name}")
    return 0


def check_contract(name: str, options: Submit) -> None:
    """The shipped checks; the first that fails ends a submission before any work."""
    from benchmark.checks.algorithm import AlgorithmSubject, check_algorithm

    cls = algorithms.registry(options.plugin).cls(name)
    subject = AlgorithmSubject(name, cls, config=cls.small)
    bad = [result for result in check_algorithm(subject, cls.expected_failures) if not result.ok]
    if bad:
        raise UserError(
            f"{name} breaks the contract in {bad[0].name}: {bad[0].message}; see make check."
        )
    print(f"{name} keeps the contract")


def finished_runs(options: Submit) -> list[Run]:
    """Every row on every dataset, by the protocol's seeds; what is missing is run now."""
    # A bench asks for one dataset; here it only tells which one is an algorithm's own.
    sources = options.datasets or (bench.default_source(options.algos[0], _bench(options)),)
    grid = Grid(
        options.algos,
        sources,
        protocol=options.protocol,
        plugin=options.plugin,
        out=options.out,
        workers=options.workers,
    )
    bench.make_data(sources)
    runs = [
        item
        for source in sources
        for row in options.algos
        for item in bench.plan(row, source, grid)
    ]
    if grids.run(grid):
        raise UserError("not every run ended, see above; the same command goes on from there.")
    return runs


def _bench(options: Submit) -> Bench:
    return Bench(options.algos[0], protocol=options.protocol, plugin=options.plugin)


def next_id(name: str, root: Path) -> str:
    """The first version of a name that is free; old versions stay."""
    from leaderboard.submission import ID

    taken = [ID.fullmatch(path.name) for path in root.iterdir()] if root.is_dir() else []
    versions = [int(match["version"]) for match in taken if match and match["algo"] == name]
    return f"{name}-v{max(versions, default=0) + 1}"


def collect(run: Run, options: Submit) -> tuple[list[Record], dict[str, bytes]]:
    """Records of a run, and its records, checkpoint and traces as files of a submission.

    The checkpoint plays the protocol's episodes again; its returns must be the records'.
    """
    from benchmark.runner import find_records
    from leaderboard import submission

    records = find_records(run, [options.out / "records"])
    if records is None:
        raise UserError(f"{run.row} has no record of {run.source} in {options.out / 'records'}.")
    path = checkpoint.latest(run.where)
    if path is None or files.sha256_file(path) != records[0].checkpoint_sha256:
        raise UserError(
            f"the checkpoint of {run.row} on {run.source} is not in {run.where} any more; delete"
            f" the run's records in {options.out / 'records'} to train it again."
        )
    played = policy.play(checkpoint.load(path), run.cls, run.task, run.protocol.evaluation_seeds())
    blobs = {submission.checkpoint_name(records[0]): path.read_bytes()}
    for k, item in enumerate(records):
        blobs[submission.record_name(item)] = record.to_json(item).encode()
        if item.failed:
            continue
        team = run.task.spec.team(played.evaluation.returns[k]).tolist()
        if team != item.team_returns:
            raise UserError(
                f"{item.algo} seed {item.seed} does not repeat its evaluation: episode returns"
                " differ from the record's; does act draw all noise from what begin seeds?"
            )
        kept = played.traces[k]
        if kept is not None:
            blobs[submission.trace_name(item)] = trace.pack(kept)
    return records, blobs


def ends(task: str) -> Ends:
    from leaderboard.submission import Ends

    reference = registry.task(task).reference()
    if reference is None:
        raise UserError(f"{task} has no committed reference, so nothing on it is ranked.")
    return Ends(reference.random, reference.expert, reference.uniform_exploitability)


def rivals(records: list[Record]) -> list[Record]:
    """The committed records of the same datasets and protocol."""
    boards = {(item.task, item.dataset, item.protocol) for item in records}
    keys = {item.key for item in records}
    return [
        item
        for item in board.committed()
        if (item.task, item.dataset, item.protocol) in boards and item.key not in keys
    ]


def plot(rows: list[Row]) -> bytes:
    from leaderboard import plots

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        plots.comparison(rows, path)
        return path.read_bytes()


def report(name: str, records: list[Record], shown: list[Row], options: Submit) -> bytes:
    from leaderboard.table import render

    first = records[0]
    rows = ", ".join(sorted({item.algo for item in records}))
    sources = " ".join(sorted({item.dataset or item.task for item in records}))
    rule = protocol(options.protocol)
    code = f"[{options.code}]({options.code})" if options.code else "not public"
    lines = [
        f"# {name}",
        "",
        f"Rows: {rows}. Author: {options.author or 'unnamed'}. Code: {code}, sha256"
        f" `{first.code_sha256[:16]}`. Paper: {first.paper}.",
        "",
        f"Protocol {rule.name}: seeds 0 to {rule.n_seeds - 1}, the last checkpoint, all seeds"
        f" shown. Commit `{first.provenance.commit[:12] or 'unknown'}`. It passes `make check`.",
        "",
        "To repeat it:",
        "",
        "```",
        f'make submit ALGO="{" ".join(options.algos)}" DATASETS="{sources}"'
        f" PROTOCOL={rule.name}" + (" PLUGIN=..." if options.plugin else ""),
        f"make verify SUBMISSION={name} LEVEL=2",
        "```",
        "",
        "![Scores with the floors](plot.png)",
        "",
        "Self-reported until it is verified; beside it the committed records:",
        "",
        render(shown, "markdown").strip(),
        "",
    ]
    return "\n".join(lines).encode()


def check(folder: Path) -> None:
    """A submission that would be refused is not written."""
    from leaderboard import replay, submission, verify

    own, suite = submission.read(folder), board.suite()
    found = verify.faults(own, suite) or [
        fault for item in own.records.values() for fault in replay.replay_faults(own, item)
    ]
    if found:
        raise UserError(f"it would not be accepted: {found[0].removeprefix(str(folder.parent))}")
