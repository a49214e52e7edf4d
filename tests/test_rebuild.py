"""A board that is built again is the same: files in another order, another locale and time zone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.record import to_json
from tests.conftest import ROOT
from tests.records import DATASET, record, runs

EXPERT = "mpe/spread/expert-v1"
BUILD = """
import hashlib, locale, sys, time
from pathlib import Path
locale.setlocale(locale.LC_ALL, "")
from benchmark.cli import board, claims
from leaderboard import aggregate, claims_table, formats, plots, site, table
records = board.read([Path(sys.argv[1])])
rows = board.rows_of(records)
found = claims.findings(rows)
out = Path(sys.argv[1]) / "plot"
plots.comparison(rows[:4], out.with_suffix(".svg"))
plots.comparison(rows[:4], out.with_suffix(".png"))
texts = {kind: table.render(rows, kind) for kind in table.FORMATS}
across = aggregate.sheets(aggregate.summaries(rows))
texts |= {f"summary {kind}": formats.write(across, kind) for kind in table.FORMATS}
texts |= {f"claims {kind}": claims_table.render(found, kind) for kind in claims_table.FORMATS}
texts["page"] = site.build(records, rows, found)
made = {name: text.encode() for name, text in texts.items()}
made |= {suffix: out.with_suffix(suffix).read_bytes() for suffix in (".svg", ".png")}
for name, data in made.items():
    print(name, len(data), hashlib.sha256(data).hexdigest())
print(time.tzname, locale.setlocale(locale.LC_ALL), hash("board"), file=sys.stderr)
"""


def build(folder: Path, seed: int, **environment: str) -> tuple[str, str]:
    """Names and hashes of everything that is built, and where it was: the records are written in an
    order and under names of their own.
    """
    items = [
        *runs("bc", [50, 52, 47, 49, 51]),
        *runs("omar", [80, 83, 79, 85, 81]),
        *runs("bc", [60, 61, 64, 62, 63], dataset=EXPERT, key="b" * 64),
        *runs("omar", [70, 72, 77, 75, 71], dataset=EXPERT, key="c" * 64),
        *runs("madiff", [55, 56, 58], paper="arXiv:2305.17330", dataset=DATASET),
        record("maicq", failed=True),
    ]
    rng = random.Random(seed)
    rng.shuffle(items)
    for item in items:
        path = folder / f"{rng.randrange(10**9)}" / f"{rng.randrange(10**9)}.json"
        path.parent.mkdir(parents=True)
        path.write_text(to_json(item))
        os.utime(path, (rng.randrange(10**9),) * 2)
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def german(folder: Path) -> dict[str, str]:
    """A locale with a decimal comma, compiled into a folder; C where the machine cannot."""
    compiled = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")]
    try:
        folder.mkdir()
        subprocess.run(compiled, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"LC_ALL": "C"}
    return {"LC_ALL": "de_DE.UTF-8", "LOCPATH": str(folder)}


@pytest.mark.slow
def test_a_board_of_shuffled_files_in_another_locale_and_time_zone_is_the_same_bytes(
    tmp_path: Path,
) -> None:
    here = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "1"}
    there = german(tmp_path / "locales") | {"TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "2"}
    first, where = build(tmp_path / "a", 0, **here)
    again, elsewhere = build(tmp_path / "b", 1, **there)
    assert where.split()[-2:] != elsewhere.split()[-2:]  # another locale, another order of sets
    assert first == again
    assert len(first.splitlines()) == 17
    assert len({line.split()[-1] for line in first.splitlines()}) == 17


LARGE = """
import sys, time
from pathlib import Path
from benchmark import launch
from benchmark.cli import board, main
from leaderboard import verify
count = sum(1 for _ in verify.results(Path(sys.argv[1]), board.suite()))
assert main(["site", "--records", sys.argv[1], "--out", sys.argv[2]]) == 0
print(count, time.process_time(), launch.peak_mb())
"""


@pytest.mark.slow
def test_a_thousand_records_are_checked_and_built_in_a_minute_and_a_gigabyte(
    tmp_path: Path,
) -> None:
    for i in range(100):
        name, dataset = f"algorithm_{i % 20}", f"mpe/spread/{'abcde'[i // 20]}-v1"
        means = [50.0 + i / 10 + seed for seed in range(10)]
        for item in runs(name, means, dataset=dataset, key=f"{i:064x}"):
            path = item.path(tmp_path / "records")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(to_json(item))
    command = [sys.executable, "-c", LARGE, str(tmp_path / "records"), str(tmp_path / "a.html")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    count, seconds, megabytes = done.stdout.split()[-3:]
    assert int(count) == 1_000
    assert float(seconds) < 60
    assert float(megabytes) < 1_000
