"""The pages under docs/, README and CONTRIBUTING: every command can be typed, the pages'
commands run, tables say what the code says, and links lead somewhere.

CONTRIBUTING's submission is run in test_submit, the README's first command in test_fresh_clone, its
Python in test_readme; levels 2 and 3 and BASE= of verify in test_submit.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from benchmark import cli, protocol
from benchmark.record import Record
from leaderboard import scores
from tests.conftest import ROOT, TINY, bench

PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {
    path.name: path.read_text() for path in (*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md")
}
# Of a page's commands these are run elsewhere, see above
ELSEWHERE = ("make verify SUBMISSION", "make verify BASE")


def fenced(text: str) -> list[str]:
    """The commands of a page's blocks, without comments."""
    blocks = re.findall(r"```\n(.*?)```", text, re.S)
    lines = [
        shlex.join(shlex.split(line, comments=True)) for b in blocks for line in b.splitlines()
    ]
    return [line for line in lines if line.startswith(("make ", "python -m "))]


def inline(text: str) -> list[str]:
    """Commands in the middle of a sentence, but those with words left out."""
    found = re.findall(r"`((?:make|python -m) [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [line.replace("\\|", "|") for line in found if "..." not in line]


COMMANDS = [
    pytest.param(line, id=f"{name}-{line}")
    for name, text in TEXTS.items()
    for line in dict.fromkeys([*fenced(text), *inline(text)])
]
RUN = [
    pytest.param(line, id=f"{path.stem}-{line}")
    for path in PAGES
    for line in fenced(path.read_text())
    if not line.startswith(ELSEWHERE)
]


def typed(line: str) -> list[list[str]]:
    """The arguments of `python -m benchmark` that a make or python line comes to; some make targets
    run other programs.
    """
    words = shlex.split(re.sub(r"=(\w+)(\|\w+)+", r"=\1", line))  # of alternatives the first
    found = [words]
    if words[0] == "make":
        inherited = ("MAKEFLAGS", "MFLAGS", "ARGS")  # of a make that runs the tests
        env = {name: value for name, value in os.environ.items() if name not in inherited}
        dry = ["make", "-n", "-o", "setup", *words[1:]]
        done = subprocess.run(dry, capture_output=True, text=True, cwd=ROOT, env=env)
        named = len(words) == 2 and "is missing; expected for example" in done.stderr
        assert named or done.returncode == 0, done.stderr
        lines = done.stdout.replace("\\\n", " ").splitlines()
        found = [shlex.split(text, comments=True) for text in lines if " -m benchmark " in text]
    return [words[words.index("benchmark") + 1 :] for words in found]


def test_there_is_a_page_of_each_kind() -> None:
    wanted = {"protocol", "formats", "statistics", "verification", "traps", "claims", "tasks"}
    wanted |= {"results", "performance"}
    assert {path.stem for path in PAGES} == wanted
    assert len(RUN) > 8


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_a_page_can_be_typed(line: str) -> None:
    """Its target is there, and its options are the command's."""
    for words in typed(line):
        cli.parse(words)


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_a_command_of_a_page_works(line: str, data_root: Path, tmp_path: Path) -> None:
    assert TINY in line or "DATASET" not in line, "a test makes no other data"
    (words,) = typed(line)
    words = [word.replace("data/", f"{data_root}/") for word in words]
    out = {"bench": "", "plots": "", "site": "/index.html"}.get(words[0])
    if out is not None:
        words += ["--out", f"{tmp_path}{out}"]
    if words[0] == "bench":  # it starts processes of its own, as only a process should
        done = bench(*words)
        assert done.returncode == 0, done.stderr
    else:
        assert cli.main(words) == 0


# ------------------------------------------------------------------------- what the tables say
def test_the_page_of_the_protocol_says_its_numbers() -> None:
    text = TEXTS["protocol.md"]
    for rule in protocol.PROTOCOLS.values():
        row = f"| `{rule.name}` | {rule.n_seeds} | {rule.group} | {rule.episodes:,} |"
        assert row in text
    most = max(rule.n_seeds for rule in protocol.PROTOCOLS.values())
    for name, seeds in {
        "training": range(most),
        "recipes of datasets": protocol.RECIPE_SEEDS,
        "tuning": protocol.TUNING_SEEDS,
        "evaluation": protocol.EVALUATION_SEEDS,
        "references": protocol.REFERENCE_SEEDS,
        "verification, drawn afresh each time": protocol.VERIFICATION_SEEDS,
    }.items():
        assert f"| {name} | {seeds.start:,} to {seeds.stop - 1:,} |" in text
    assert f"Version {protocol.PROTOCOL_VERSION}, in" in text
    assert f"Tasks of {protocol.LONG} steps and more are evaluated on at most" in text
    assert f"at most {protocol.LONG_EPISODES} episodes" in text


def test_the_page_of_formats_shows_the_layout_and_every_field_of_a_record() -> None:
    text = TEXTS["formats.md"]
    (block,) = re.findall(r"<!-- begin:layout -->\n```text\n(.*?)```", text, re.S)
    documented = ast.get_docstring(
        ast.parse((ROOT / "datasets/schema.py").read_text()), clean=False
    )
    assert documented is not None
    assert textwrap.indent(block, "    ") in documented
    named = set(re.findall(r"`(\w+)`", text.split("## Records")[1].split("## Checkpoints")[0]))
    assert {field.name for field in fields(Record)} <= named


def test_the_page_of_statistics_says_when_there_is_a_bootstrap() -> None:
    text = TEXTS["statistics.md"]
    assert f"| 2 to {scores.BOOTSTRAP_FROM - 1} | mean | Student's t;" in text
    assert f"| {scores.BOOTSTRAP_FROM} and more | interquartile mean |" in text
    assert f"{scores.RESAMPLES:,} resamples" in text


def test_the_page_of_the_protocol_names_every_track_and_execution() -> None:
    from leaderboard.rows import EXECUTIONS, TRACKS

    assert {f"`{name}`" for name in (*TRACKS, *EXECUTIONS)} <= set(
        re.findall(r"`[\w-]+`", TEXTS["protocol.md"])
    )


@pytest.mark.parametrize("name", TEXTS)
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    folder = ROOT / "docs" if (ROOT / "docs" / name).exists() else ROOT
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[name]):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        assert not path or (folder / path).exists(), target
        if anchor:
            page = TEXTS[Path(path).name if path else name]
            heads = re.findall(r"^#+ (.*)$", page, re.M)
            assert anchor in {head.lower().replace(" ", "-").replace(",", "") for head in heads}
