"""Who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("benchmark", "algorithms", "datasets", "leaderboard")


def modules() -> dict[str, Path]:
    """Every module of the suite by its dotted name."""
    found = {}
    for part in PARTS:
        for path in (ROOT / part).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, *, at_import: bool = False) -> set[str]:
    """Modules of the suite that a file names; at_import: only those that importing it loads."""
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(ast.walk(tree))
    if at_import:
        # What stands in functions or under TYPE_CHECKING is loaded later or never.
        nodes = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    known, found = modules(), set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (deeper & set(known)) or {node.module}
    return {name for name in found if name.split(".")[0] in PARTS}


def test_benchmark_imports_no_other_part_but_in_its_command_line() -> None:
    for name, path in modules().items():
        if name.startswith("benchmark") and not name.startswith("benchmark.cli"):
            others = {x for x in imports(path) if not x.startswith("benchmark")}
            assert not others, f"{name} imports {sorted(others)}"


def test_algorithms_know_no_environment_tracker_or_board() -> None:
    for name, path in modules().items():
        if name.startswith("algorithms"):
            bad = {
                x
                for x in imports(path)
                if x.startswith(("benchmark.envs", "benchmark.tracking", "leaderboard"))
            }
            assert not bad, f"{name} imports {sorted(bad)}"


def test_leaderboard_knows_the_benchmark_only() -> None:
    for name, path in modules().items():
        if name.startswith("leaderboard"):
            bad = {x for x in imports(path) if x.startswith(("algorithms", "datasets"))}
            assert not bad, f"{name} imports {sorted(bad)}"


def test_recipes_are_known_to_nobody() -> None:
    """The datasets package finds them by scanning its folder."""
    for name, path in modules().items():
        if not name.startswith("datasets.recipes"):
            bad = {x for x in imports(path) if x.startswith("datasets.recipes.")}
            assert not bad, f"{name} imports {sorted(bad)}"


def test_there_is_no_import_circle() -> None:
    graph = {name: imports(path, at_import=True) for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done or name not in graph:
            return
        for other in sorted(graph[name] - {name}):
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("code", ["import benchmark", "import datasets", "import algorithms"])
def test_importing_a_package_loads_nothing_heavy(code: str) -> None:
    heavy = "torch", "pettingzoo", "gymnasium", "matplotlib", "h5py", "pandas"
    script = f"import sys; {code}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_help_loads_no_torch() -> None:
    script = (
        "import sys\nfrom benchmark.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip().endswith("False"), done.stdout + done.stderr


def test_no_pickle_and_no_unsafe_loading() -> None:
    def keywords(node: ast.Call) -> set[str]:
        return {ast.unparse(keyword) for keyword in node.keywords}

    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                text = ast.unparse(node)
                for word in ("pickle", "joblib", "dill", "yaml"):
                    assert not re.search(rf"\b{word}\b", text), f"{name}: {text}"
            if isinstance(node, ast.Call):
                assert "allow_pickle=True" not in keywords(node), f"{name}: {ast.unparse(node)}"
                if ast.unparse(node.func) == "torch.load":
                    assert "weights_only=True" in keywords(node), f"{name}: {ast.unparse(node)}"


def test_one_place_opens_hdf5_files_for_reading() -> None:
    for name, path in modules().items():
        if name not in ("datasets.open", "datasets.writer"):
            assert "h5py.File(" not in path.read_text(), f"{name} opens HDF5 by itself"


# What else writes: a lock, appended losses, a closed pipe's stand-in, a copy in a temporary folder;
# HDF5 files and plots are written under a temporary name of benchmark.files.
WRITERS = {
    "benchmark.files",
    "benchmark.runner",
    "benchmark.tracking",
    "benchmark.cli",
    "benchmark.cli.retrain",
    "datasets.writer",
    "leaderboard.plots",
}


def test_files_are_written_in_one_place() -> None:
    """There a file is synced before it has its name, and its folder after."""

    def writes(node: ast.Call) -> bool:
        name = ast.unparse(node.func)
        constants = [
            x.value
            for x in [*node.args, *(k.value for k in node.keywords)]
            if isinstance(x, ast.Constant)
        ]
        opens = name in ("open", "h5py.File") and {"w", "a", "x", "wb", "ab", "xb"} & set(constants)
        ours = name.startswith("files.") or isinstance(node.func, ast.Name)
        ends = (".write_text", ".write_bytes", ".savefig", ".to_csv")
        moves = ("os.replace", "os.rename", "os.link", "shutil.copy", "shutil.move")
        return bool(opens) or name in moves or (name.endswith(ends) and not ours)

    found = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and writes(node)
    }
    assert found == WRITERS


def test_a_foreign_package_named_datasets_is_told_at_once(tmp_path: Path) -> None:
    foreign = tmp_path / "datasets"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.path.insert(1, {str(ROOT)!r})\n"
        "from benchmark.cli import main; sys.exit(main(['datasets']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the name 'datasets' resolves to {foreign}")
    assert done.stderr.count("\n") == 1
