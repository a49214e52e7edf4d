"""leaderboard, plots and site: what records say, as tables, plots and a page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from benchmark import files, record
from benchmark.cli import ROOT
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Leaderboard, Plots, Site
    from benchmark.record import Record
    from leaderboard.rows import Row

SUBMISSIONS = ROOT / "leaderboard" / "submissions"  # those verified at level 1 and above count
RESULTS = ROOT / "leaderboard" / "results"


def read(folders: Sequence[Path]) -> list[Record]:
    """The records of the folders, or the committed ones."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"option --records: {folder} is not a folder of records.")
    found = record.read_all(folders or [RESULTS])
    if not folders:
        from leaderboard.verification import accepted

        found += accepted(SUBMISSIONS)
    if not found:
        where = ", ".join(map(str, folders)) or str(RESULTS)
        raise UserError(f"no records in {where}; make some with make bench ALGO=bc.")
    return found


def rows_of(records: Sequence[Record]) -> list[Row]:
    from leaderboard.rows import summarise

    ids = {item.dataset for item in records if item.dataset}
    means = {dataset: datasets.mean_value(dataset) for dataset in sorted(ids)}
    return summarise(records, {key: value for key, value in means.items() if value is not None})


def table(options: Leaderboard) -> int:
    from leaderboard.table import render

    text = render(rows_of(read(options.records)), options.format)
    if options.out:
        files.write_text(options.out, text)
        print(f"wrote {options.out}")
    else:
        print(text)
    return 0


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """One comparison and one figure of curves a dataset, or a task of the online track, as PNG and
    SVG.
    """
    from leaderboard import plots as figures

    made = []
    boards: dict[str, list[Record]] = defaultdict(list)
    for item in records:
        online = "" if item.track in ("offline", "model") else f"--{item.track}"
        boards[(item.dataset or item.task) + online].append(item)
    for board, own in sorted(boards.items()):
        name = board.replace("/", "--")
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            figures.comparison(rows_of(own), path)
            made.append(path)
            if any(item.curve for item in own):
                figures.curves(own, folder / f"{name}--curves.{suffix}")
                made.append(folder / f"{name}--curves.{suffix}")
    return made


def plots(options: Plots) -> int:
    for path in draw(read(options.records), options.out):
        print(f"wrote {path}")
    return 0


def site(options: Site) -> int:
    from leaderboard.site import build

    found = read(options.records)
    files.write_text(options.out, build(found, rows_of(found)))
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
