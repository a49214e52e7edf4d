"""render: GIFs and PNGs of tasks, the contact sheet of all of them, and the page of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import files, registry, render
from benchmark.cli import ROOT, page
from benchmark.errors import UserError

if TYPE_CHECKING:
    from benchmark.cli.options import Render

FIGURES = ROOT / "leaderboard" / "figures" / "tasks"
OUT = Path("runs/render")


def run(options: Render) -> int:
    if bool(options.task) + options.all + options.page != 1:
        raise UserError(
            "option TASK, --all or --page: expected one of them, for example"
            " TASK=meanfield/beach-bar-n256-v1."
        )
    if options.seed < 0:
        raise UserError(f"option --seed is {options.seed}, expected 0 or more.")
    if options.page:
        files.write_text(page.PAGE, page.filled())
        print(f"wrote {page.PAGE}")
        return 0
    if options.all:
        return gallery(options)
    task = registry.task(options.task)
    film = render.film(task, options.policy or render.policies(task), options.seed)
    for path in write(film, options.out or OUT, "-".join([stem(options.task), *options.policy])):
        print(f"wrote {path}")
    return 0


def gallery(options: Render) -> int:
    """A GIF of each game, and all of them on one sheet; exit code 1 where one could not be drawn.

    A game whose extra is not installed is left out with one line that names it.
    """
    folder, stills, failed = options.out or FIGURES, [], 0
    for task_id in render.games():
        try:
            task = registry.task(task_id)
            film = render.film(task, options.policy or render.policies(task), options.seed)
        except UserError as error:
            print(f"left out {task_id}: {error}")
            failed += 1
            continue
        stills.append(film.still())
        files.write_bytes(folder / f"{stem(task_id)}.gif", film.gif())
        print(f"wrote {folder / stem(task_id)}.gif", flush=True)
    if stills:
        files.write_bytes(folder / "all.png", render.png(render.sheet(stills)))
        print(f"wrote {folder / 'all.png'}")
    return 1 if failed else 0


def write(film: render.Film, folder: Path, name: str) -> list[Path]:
    paths = [folder / f"{name}.gif", folder / f"{name}.png"]
    for path, data in zip(paths, (film.gif(), render.png(film.still())), strict=True):
        files.write_bytes(path, data)
    return paths


def stem(task_id: str) -> str:
    """meanfield/beach-bar-n256-v1 -> meanfield--beach-bar-n256-v1"""
    return task_id.replace("/", "--")
