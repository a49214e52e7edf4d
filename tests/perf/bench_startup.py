"""How soon the command line answers: `--help` and `import benchmark`, each as a whole process.

python tests/perf/bench_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = 7
CASES = {
    "import benchmark": (["-c", "import benchmark"], 0.5),
    "--help": (["-m", "benchmark", "--help"], 0.6),
    "bench --help": (["-m", "benchmark", "bench", "--help"], 0.6),
    "an empty process": (["-c", "pass"], None),
}


def main() -> None:
    print(f"seconds of wall time, median of {ROUNDS}")
    for name, (arguments, goal) in CASES.items():
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            command = [sys.executable, *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
            times.append(time.perf_counter() - begun)
        note = f"  (goal: under {goal})" if goal else ""
        print(f"  {name:18} {statistics.median(times):6.3f}{note}")


if __name__ == "__main__":
    main()
