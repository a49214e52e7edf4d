"""render: GIFs and PNGs of tasks and of trained policies, the sheet and the page of all tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import checkpoint, files, record, registry, render
from benchmark.cli import ROOT, page
from benchmark.errors import UserError, unknown_name

if TYPE_CHECKING:
    from benchmark.cli.options import Render

FIGURES = ROOT / "leaderboard" / "figures" / "tasks"
RUNS = Path("runs")
OUT = RUNS / "render"


def run(options: Render) -> int:
    if bool(options.task) + bool(options.run) + options.all + options.page != 1:
        raise UserError(
            "option TASK, RUN, --all or --page: expected one of them, for example"
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
    if options.run:
        name, film = trained(options)
    else:
        task = registry.task(options.task)
        name = "-".join([stem(options.task), *options.policy])
        film = render.film(task, options.policy or render.policies(task), options.seed)
    for path in write(film, options.out or OUT, name):
        print(f"wrote {path}")
    return 0


def trained(options: Render) -> tuple[str, render.Film]:
    """Name of the files and film of one training seed of a run, after whoever else is asked for."""
    import algorithms

    path, member = find(options.run)
    if options.member is not None:
        member = options.member
    found = algorithms.load(path, member, plugins=options.plugin)
    name = f"{found.row} seed {found.group.seeds[found.k]}"
    film = render.film(found.task, [*options.policy, name], options.seed, {name: found})
    parts = [stem(found.task.spec.id), *options.policy, name.replace(" ", "-")]
    return "-".join(parts), film


def find(run: str, root: Path = RUNS) -> tuple[Path, int | None]:
    """The checkpoint of a run, and its training seed where `run` is a record.

    `run` is a checkpoint, a run's folder, its name or key under `root`/checkpoints, or a record.
    """
    path = Path(run)
    if path.suffix == ".safetensors":
        return path, None
    if path.suffix == ".json":
        item = record.read(path)
        key = item.key[:12]
        beside = path.with_name(f"checkpoint-{key}.safetensors")  # of a submission
        if beside.exists():
            return beside, item.seed
        outs = [*path.resolve().parents, root]  # a record lies in OUT/records
        for folder in (out / "checkpoints" / f"{item.algo}-{key}" for out in outs):
            found = checkpoint.latest(folder)
            if found is not None:
                return found, item.seed
        raise UserError(
            f"the checkpoint of {path} is not here; train it again with make bench"
            f" ALGO={item.algo} DATASET={item.dataset or item.task} PROTOCOL={item.protocol}."
        )
    if not path.is_dir():
        known = {one.name: one for one in sorted((root / "checkpoints").glob("*-*"))}
        named = [one for name, one in known.items() if run in (name, name.rpartition("-")[2])]
        if not named:
            raise unknown_name(f"run in {root / 'checkpoints'}", run, known)
        path = named[0]
    found = checkpoint.latest(path)
    if found is None:
        raise UserError(f"{path} holds no checkpoint-*.safetensors; is it a run's folder?")
    return found, None


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
