"""leaderboard and site: what records say, as tables and a page; plots are in `plots.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import algorithms
import datasets
from benchmark import files, record
from benchmark.cli import ROOT
from benchmark.errors import UserError, unknown_name
from datasets import cardfile

if TYPE_CHECKING:
    from benchmark.cli.options import Leaderboard, Site, Where
    from benchmark.record import Record
    from leaderboard.rows import Row
    from leaderboard.soundness import Suite

SUBMISSIONS = ROOT / "leaderboard" / "submissions"  # those verified at level 1 and above count
RESULTS = ROOT / "leaderboard" / "results"


def suite(checkpoints: Mapping[str, str] | None = None) -> Suite:
    """What records are held against: this checkout, and whose the known checkpoints are."""
    from leaderboard.soundness import Suite

    return Suite(algorithms.registry(), card, checkpoints or {})


def card(dataset: str) -> dict[str, Any]:
    """The committed card of a dataset; {} where there is none."""
    return cardfile.read_card(cardfile.card_path(dataset))


def committed() -> list[Record]:
    """The committed records, lean, at the level that they are found to have: 1, or 0 where
    `make verify` says what is wrong.
    """
    from leaderboard import verify

    found = []
    for path, item, faults in verify.results(RESULTS, suite()):
        if item is None:
            raise UserError(f"{path}: {faults[0]}")
        found.append(record.lean(replace(item, level=0 if faults else 1)))
    return found


def read(folders: Sequence[Path]) -> list[Record]:
    """The records of the folders, or the committed ones and the accepted submissions'."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"option --records: {folder} is not a folder of records.")
    if folders:
        found = record.read_all(folders, for_boards=True)
    else:
        from leaderboard.verification import accepted

        found = [*committed(), *map(record.lean, accepted(SUBMISSIONS))]
    if not found:
        where = ", ".join(map(str, folders)) or str(RESULTS)
        raise UserError(f"no records in {where}; make some with make bench ALGO=bc.")
    return found


def rows_of(records: Sequence[Record]) -> list[Row]:
    from leaderboard import published
    from leaderboard.summarise import summarise

    ids = {item.dataset for item in records if item.dataset}
    means = {dataset: datasets.mean_value(dataset) for dataset in sorted(ids)}
    rows = summarise(records, {key: value for key, value in means.items() if value is not None})
    return published.beside(rows, published.load())


def select(rows: Sequence[Row], where: Where) -> list[Row]:
    """The rows that `where` names; floors and references stay with their boards.

    A value that no row has raises UserError with the nearest that one has.
    """
    facts = {
        "track": lambda row: row.board.track,
        "namespace": lambda row: row.board.task.split("/")[0],
        "tier": lambda row: row.board.dataset.rpartition("/")[2].rpartition("-v")[0],
        "protocol": lambda row: row.board.protocol,
        "execution": lambda row: row.execution,
    }
    found = list(rows)
    for name, fact in facts.items():
        wanted = getattr(where, name)
        known = {fact(row) for row in rows} - {""}
        for value in wanted:
            if value not in known:
                raise unknown_name(f"{name} of a board", value, known)
        if name == "execution" and wanted:
            found = [row for row in found if row.kind != "algorithm" or fact(row) in wanted]
            kept = {row.board for row in found if row.kind == "algorithm"}
            found = [row for row in found if row.board in kept]
        elif wanted:
            found = [row for row in found if fact(row) in wanted]
    return found


def table(options: Leaderboard) -> int:
    from leaderboard import aggregate, formats
    from leaderboard.table import sheets

    rows = select(rows_of(read(options.records)), options.where)
    if options.view == "summary":
        found = aggregate.sheets(aggregate.summaries(rows))
    else:
        found = sheets(rows)
    text = formats.write(found, options.format)
    if options.out:
        files.write_text(options.out, text)
        print(f"wrote {options.out}")
    else:
        print(text)
    return 0


def site(options: Site) -> int:
    from benchmark.cli import claims
    from leaderboard.site import build

    found = read(options.records)
    rows = rows_of(found)
    files.write_text(options.out, build(found, rows, claims.findings(rows)))
    print(f"wrote {options.out}")
    return 0


def show(records: Sequence[Record], folder: Path, name: str) -> None:
    """At the end of a bench: the table on the terminal, the plot and the page as files."""
    from leaderboard import plots as figures
    from leaderboard.site import build
    from leaderboard.table import render

    rows = rows_of(records)
    print(render(rows, "text"))
    stem = folder / "bench" / name.replace("/", "--")
    for suffix in (".png", ".svg"):
        figures.comparison(rows, stem.with_name(stem.name + suffix))
    page = stem.with_name(stem.name + ".html")
    files.write_text(page, build(records, rows))
    print(f"plot: {stem}.png and .svg; page: {page}; records: {folder / 'records'}")
