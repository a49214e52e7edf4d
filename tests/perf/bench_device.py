"""Updates a second, memory and utilisation of every learner on a device.

    python -m tests.perf.bench_device [--device cuda] [--only bc om2p ...] [--seconds 2] [--record]

Each trains the group of seeds of its quick protocol on a small dataset, which stands on the device
as in a run: its batches are part of what is timed and counted, its rows of the memory. `busy` is
the share of the time in which the device worked: the kernels' own time on a GPU, the process's CPU
time on a CPU. `waits` counts the operations of an update for which the host must wait until the
device has answered, copies included; on a GPU there should be none (on a CPU, torch's own checks of
look-ups are among them). No GPU was at hand: the same code runs on a CPU, where tests hold it, and
no record of a GPU is committed.

`--record` writes leaderboard/perf/device-NAME.json with the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import algorithms
from benchmark import files, profile, provenance
from benchmark.cli.options import Train
from benchmark.cli.train import make_data, plan
from benchmark.errors import UserError
from benchmark.runner import check_device
from benchmark.train import Run

FOLDER = Path(__file__).parents[2] / "leaderboard" / "perf"
TEAM, CROWD = "mpe/spread/random-v1", "meanfield/squeeze-n100/medium-v1"
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"}
MOVES = {"_to_copy", "copy_"}  # they wait where they change the device, unless told otherwise


@dataclasses.dataclass(frozen=True)
class Row:
    algo: str
    seeds: int
    updates_per_second: float  # of the group
    peak_mb: float  # that the device holds for it; the process's own on a CPU
    busy: float  # share of the time
    waits: float  # operations an update


class Waits(TorchDispatchMode):
    """Counts the operations that need an answer of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, result = func.overloadpacket.__name__, func(*args, **(kwargs or {}))
        self.count += name in WAITS
        if name in MOVES:
            places = {x.device for x in (*args, result) if isinstance(x, Tensor)}
            told = (kwargs or {}).get("non_blocking") or True in args[2:]
            self.count += len(places) > 1 and not (told and result.device.type != "cpu")
        return result


def learners() -> dict[str, str]:
    """Rows that learn from a dataset -> a dataset that they take."""
    found = {}
    for name in algorithms.names():
        cls = algorithms.registry().cls(name)
        dataset = TEAM if name == "madiff" or "continuous" in cls.requires else CROWD
        if cls.variants["default"].track in ("offline", "model") and name != "random":
            found[name] = dataset
    return found


def measure(run: Run, seconds: float) -> Row:
    """Time the updates of a run's first group; UserError where they cannot run on its device."""
    on_gpu = run.device.startswith("cuda")
    try:
        _, sample, update = profile.build(run)

        def cycle() -> None:
            sample()
            update()

        with Waits() as waits:
            cycle()
        _settle(on_gpu)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        count, begun, spent = 0, time.perf_counter(), time.process_time()
        while count == 0 or time.perf_counter() - begun < seconds:
            cycle()
            count += 1
        _settle(on_gpu)
        wall, spent = time.perf_counter() - begun, time.process_time() - spent
        busy = _kernels(cycle) / (wall / count) if on_gpu else spent / wall
    except RuntimeError as error:
        raise UserError(f"{run.row} does not train on {run.device}: {error}.") from error
    megabytes = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else _resident()
    per_update = waits.count / profile.CYCLE
    rate = count * profile.CYCLE / wall
    return Row(run.row, len(run.seeds), round(rate, 1), round(megabytes, 1), busy, per_update)


def _settle(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize()


def _kernels(cycle: Callable[[], None]) -> float:
    """Seconds that the kernels of a cycle take on the GPU."""
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as found:
        cycle()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6


def _resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 1e6)


def line(row: Row) -> str:
    return (
        f"{row.algo:14} {row.seeds:5d} {row.updates_per_second:12,.1f} {row.peak_mb:10,.0f}"
        f" {row.busy:6.0%} {row.waits:7.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=list(learners()), choices=list(learners()))
    parser.add_argument("--seconds", type=float, default=2.0, help="of wall time a row")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    try:
        check_device(options.device)
    except UserError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    rows, refused = [], {}
    print(
        f"{'algorithm':14} {'seeds':>5} {'updates/s':>12} {'peak MB':>10} {'busy':>6} {'waits':>7}"
    )
    for name in options.only:
        source = learners()[name]
        make_data([source])
        try:
            run = plan(name, source, Train(name, source, device=options.device))[0]
            rows.append(measure(run, options.seconds))
            print(line(rows[-1]), flush=True)
        except UserError as error:
            refused[name] = str(error)
            print(f"{name:14} {error}", flush=True)
    if options.record:
        device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
        record = {"machine": provenance.machine(), "device": device, "refused": refused}
        record["rows"] = [dataclasses.asdict(row) for row in rows]
        path = FOLDER / f"device-{options.device.replace(':', '-')}.json"
        files.write_json(path, record)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
