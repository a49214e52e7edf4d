"""What the process of a run and the one that started it agree on: one thread, lines of progress,
and that the run saves its state and ends when the other dies. Also how it treats its memory.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import sys
import threading
from pathlib import Path

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
MARK = "@"  # first character of a line of progress
KEPT = 1 << 30  # bytes of a block, at most, that comes from memory which the process keeps
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let the process keep what it frees, where the C library is glibc.

    Updates free the same megabytes and ask for them again; each time that these go back to the
    kernel they return as pages to be cleared, which takes up to a third of an update.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for threshold in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(threshold, KEPT)


def peak_mb() -> float:
    """Most megabytes that this process has held. That of getrusage, which stands in where there is
    no /proc, begins with the peak of the process that forked it.
    """
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    kilobytes = int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 1024


def end_with_parent() -> None:
    """In a child: when standard input closes, the parent is gone; stop as by Ctrl-C."""
    # A shell's background job inherits SIGINT as ignored, and would never hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def watch() -> None:
        sys.stdin.read()
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def report(phase: str, done: int, total: int, text: str = "") -> None:
    """In a child: a line of progress for the parent."""
    print(f"{MARK}{phase} {done} {total} {text}", flush=True)
