"""Submitting as a stranger does, the algorithm outside of the checkout; what the board shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import files, record
from benchmark.cli import board, main, retrain
from benchmark.cli import verify as job
from benchmark.cli.options import Verify
from benchmark.errors import UserError
from leaderboard import submission, verification
from leaderboard.verification import Entry, accepted, checked, history_faults
from tests.conftest import ROOT, TINY, bench
from tests.submitting import NAME, copied, record_files, stranger, submitted, suite

EXACT = "probe/xor/two-mode-v1"  # its bits are those of every processor: on the card anywhere


@pytest.fixture(autouse=True)
def _no_results(monkeypatch, request, tmp_path_factory) -> None:
    """Reading every committed record costs half a second a command; one test does."""
    if "committed_records" not in request.node.name:
        monkeypatch.setattr(job, "RESULTS", tmp_path_factory.getbasetemp() / "none")


# ------------------------------------------------------------------------------------------- new
def test_a_new_algorithm_trains_at_once(data_root: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "my_first.py"
    assert main(["new", "my_first", "--plugin", str(plugin)]) == 0
    assert "class MyFirst(Algorithm):" in plugin.read_text()
    code = [line for line in plugin.read_text().splitlines() if line.strip()]
    assert len(code) <= 60
    for source in (TINY, "probe/bandit/random-v1"):
        assert main(["data", source]) == 0
        words = ["train", "my_first", source, "--plugin", str(plugin), "--protocol", "smoke"]
        assert main([*words, "--progress", "none", "--out", str(tmp_path)]) == 0
    made = record.read_all([tmp_path / "records"])
    assert {item.failed for item in made} == {False}
    assert all(item.cost.parameters > 0 for item in made)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("new bc", "there is an algorithm 'bc' already"),
        ("new Mine", "expected lower-case letters, digits and _"),
        ("new mine --plugin /tmp/other.py", "expected a path that ends in mine.py"),
        ("submit", "expected an algorithm, such as ALGO=mine"),
        ("submit bc matd3bc", "expected variants of one algorithm"),
        ("submit bcc", "unknown algorithm 'bcc'; did you mean 'bc'?"),
        ("play nowhere.safetensors", "nowhere.safetensors is not there"),
        ("play nowhere.safetensors --episodes 0", "expected 0 or more and 1 or more"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: str, words: str, capsys) -> None:
    assert main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_new_replaces_nothing(tmp_path: Path, capsys) -> None:
    path = tmp_path / "mine.py"
    path.write_text("mine")
    assert main(["new", "mine", "--plugin", str(path)]) == 2
    assert "was left alone" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_names_that_the_start_uses_itself_are_no_trouble(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    assert main(["new", "config", "--plugin", str(path)]) == 0
    assert "class ConfigMethod(Algorithm):" in path.read_text()


# ---------------------------------------------------------------------------------------- submit
def test_a_submission_holds_what_the_page_says(foreign: Path) -> None:
    kinds = {re.split(r"[-.]", path.name)[0] for path in foreign.iterdir()}
    assert kinds == {"submission", "record", "checkpoint", "trace", "report", "plot"}
    assert len(record_files(foreign)) == 3
    report = (foreign / "report.md").read_text()
    assert "| stranger | local |" in report
    assert "dataset mean (floor)" in report
    assert sum(path.stat().st_size for path in foreign.glob("trace-*")) < 50_000
    own = submission.read(foreign)
    assert own.manifest.id == "stranger-v1"
    assert all(item.level == 0 for item in own.records.values())


@pytest.mark.slow
def test_a_change_is_a_new_version(foreign: Path, tmp_path: Path) -> None:
    root = tmp_path / "submissions"
    root.mkdir()
    before = files.sha256_file(copied(foreign, root) / "submission.json")
    made = submitted(NAME, tmp_path, "--plugin", str(stranger(tmp_path)))
    assert made.name == "stranger-v2"
    assert files.sha256_file(root / "stranger-v1" / "submission.json") == before


def test_nothing_half_written_is_left(shipped: Path, tmp_path: Path) -> None:
    own = submission.read(shipped)

    def refuse(folder: Path) -> None:
        assert folder.name == "bc-v1"
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        submission.write(tmp_path, own.manifest, {"report.md": b""}, refuse)
    assert list(tmp_path.iterdir()) == []
    submission.write(tmp_path, own.manifest, {"report.md": b""}, lambda folder: None)
    with pytest.raises(UserError, match="there already"):
        submission.write(tmp_path, own.manifest, {"report.md": b""}, lambda folder: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submission, "MAX_TOTAL", 10)
        with pytest.raises(UserError, match="would hold 1 files of 11 bytes, at most"):
            submission.write(tmp_path, own.manifest, {"report.md": bytes(11)}, refuse)
    with pytest.raises(UserError, match="at most 262144 may be submitted"):
        submission.write(tmp_path, own.manifest, {"report.md": b" " * 2**20}, lambda folder: None)


@pytest.mark.slow
def test_an_algorithm_that_does_not_repeat_itself_is_not_submitted(
    data_root: Path, tmp_path: Path, capsys
) -> None:
    plugin = stranger(tmp_path)
    text = plugin.read_text().replace(
        "self.noise.manual_seed(seed + self.seeds[0])", "self.noise.seed()"
    )
    plugin = tmp_path / "moody.py"
    plugin.write_text(text)
    with pytest.raises(AssertionError):
        submitted("moody", tmp_path, "--plugin", str(plugin))
    assert "does not repeat its evaluation" in capsys.readouterr().err
    assert not list((tmp_path / "submissions").glob("*"))


def test_a_checkpoint_that_is_gone_is_named(shipped: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "runs"
    words = ["train", "bc", TINY, "--protocol", "smoke", "--out", str(out)]
    assert main([*words, "--progress", "none"]) == 0
    for path in out.rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(AssertionError):
        submitted("bc", tmp_path)
    assert "delete the run's records in" in capsys.readouterr().err


@pytest.mark.slow
def test_an_installed_package_is_submitted(data_root: Path, tmp_path: Path, monkeypatch) -> None:
    """An entry point of the group offline_marl_bench.algorithms is all that it needs."""
    site = tmp_path / "site"
    (site / "packaged-1.0.dist-info").mkdir(parents=True)
    (site / "packaged-1.0.dist-info" / "METADATA").write_text("Name: packaged\nVersion: 1.0\n")
    (site / "packaged-1.0.dist-info" / "entry_points.txt").write_text(
        "[offline_marl_bench.algorithms]\npackaged = packaged_algorithm\n"
    )
    assert main(["new", "packaged_algorithm", "--plugin", str(site / "packaged_algorithm.py")]) == 0
    monkeypatch.syspath_prepend(str(site))
    folder = submitted("packaged", tmp_path)
    assert folder.name == "packaged-v1"
    assert main(["verify", folder.name, "--root", str(folder.parent), "--level", "2"]) == 0


def test_play_repeats_an_evaluation(shipped: Path, tmp_path: Path, capsys) -> None:
    (item,) = (record.read(path) for path in record_files(shipped))
    (path,) = shipped.glob("checkpoint-*")
    assert main(["play", str(path), "--episodes", "4", "--out", str(tmp_path)]) == 0
    assert f"bc seed 0: mean team return {item.mean_return():.4g}" in capsys.readouterr().out
    (written,) = tmp_path.iterdir()
    (known,) = shipped.glob("trace-*")
    assert written.read_bytes() == known.read_bytes()


# ------------------------------------------------------------------------------------- the board
def verified(folder: Path, level: int = 2) -> Entry:
    """Verify a folder and write the entry, as `verify --record` does."""
    assert (
        main(
            ["verify", folder.name, "--root", str(folder.parent), "--level", str(level), "--record"]
        )
        == 0
    )
    return verification.read(folder).history[-1]


def test_the_board_shows_what_was_verified_and_no_claim(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    assert accepted(tmp_path) == []
    verified(folder, 1)
    (item,) = accepted(tmp_path)
    assert (item.level, item.first_episode_seed) == (1, 10_000)
    entry = verified(folder)
    (item,) = accepted(tmp_path)
    assert item.level == 2
    assert item.first_episode_seed >= 1_000_000
    assert [item.team_returns] == [seen.team_returns for seen in entry.records.values()]
    assert accepted(tmp_path, minimum=3) == []
    assert len(verification.read(folder).history) == 2


def test_a_submission_that_changed_has_no_level(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    verified(folder)
    path = folder / submission.MANIFEST
    path.write_text(path.read_text().replace('"author": ""', '"author": "Somebody else"'))
    assert accepted(tmp_path) == []


def test_a_fault_takes_the_level_away(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    good = verified(folder)
    own = submission.read(folder)
    verification.append(own, replace(good, level=0, faults=["its checkpoint plays otherwise"]))
    assert accepted(tmp_path) == []


def test_a_lower_level_does_not_overwrite_a_higher_one(
    shipped: Path, tmp_path: Path, capsys
) -> None:
    folder = copied(shipped, tmp_path)
    verified(folder, 2)
    words = ["verify", folder.name, "--root", str(tmp_path), "--level", "1"]
    assert main(words) == 0
    assert main([*words, "--record"]) == 2
    assert "is verified at level 2 already" in capsys.readouterr().err


def test_the_last_version_counts(shipped: Path, tmp_path: Path) -> None:
    for version in (1, 2, 10):
        folder = tmp_path / f"bc-v{version}"
        copied(shipped, tmp_path / "x").rename(folder)
        path = folder / submission.MANIFEST
        path.write_text(path.read_text().replace("bc-v1", folder.name))
        own = submission.read(folder)
        ((name, item),) = own.records.items()
        seen = replace(checked(item), first_episode_seed=1_000_000 + version)
        entry = Entry(own.sha256, 1, [], [], {name: seen}, item.provenance)
        verification.append(own, entry)
    (item,) = accepted(tmp_path)
    assert item.first_episode_seed == 1_000_010


def test_the_default_board_holds_accepted_submissions(
    foreign: Path, tmp_path: Path, monkeypatch
) -> None:
    folder = copied(foreign, tmp_path)
    monkeypatch.setattr(board, "SUBMISSIONS", tmp_path)
    assert not [item for item in board.read(()) if item.algo == NAME]
    verified(folder)
    own = [item for item in board.read(()) if item.algo == NAME]
    assert [item.level for item in own] == [2, 2, 2]
    rows = [row for row in board.rows_of(own) if row.kind == "algorithm"]
    assert [(row.label, row.level, len(row.seeds)) for row in rows] == [(NAME, 2, 3)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(level=3), "level: unexpected"),
        (lambda v: v["history"][0].update(level=True), "history.0.level"),
        (lambda v: v.update(submission="other-v1"), "is of 'other-v1', expected 'bc-v1'"),
        (lambda v: v.update(schema=2), "schema 2"),
    ],
)
def test_a_malformed_verification_is_refused(change, words, shipped, tmp_path) -> None:
    folder = copied(shipped, tmp_path)
    verified(folder, 1)
    path = folder / submission.VERIFICATION
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=words):
        verification.read(folder)


# --------------------------------------------------------------------------------------- history
def test_submissions_are_only_ever_added(foreign: Path, tmp_path: Path) -> None:
    """20 edits, deletions and re-orderings of old files are refused, new versions are not."""
    folder = copied(foreign, tmp_path)
    name = folder.name
    verified(folder, 1)
    verified(folder, 1)
    old = {f"{name}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    key = f"{name}/verification.json"
    assert history_faults(old, old) == []
    assert history_faults(old, old | {f"{NAME}-v2/report.md": b"", "new-v1/report.md": b""}) == []
    edits = 0
    for path, data in old.items():
        gone = {other: x for other, x in old.items() if other != path}
        assert "was taken away" in history_faults(old, gone)[0]
        edits += 1
        if path != key:
            assert f"{path} was changed" in history_faults(old, old | {path: data + b" "})[0]
            edits += 1
    moved = {path.replace("-v1", "-v2"): data for path, data in old.items() if path != key}
    assert len(history_faults(old, moved)) == len(old)
    assert "was added to a submission" in history_faults(old, old | {f"{name}/plot.png2": b""})[0]
    entries = json.loads(old[key])
    for changed in (entries["history"][::-1], entries["history"][1:], []):
        entries["history"][0]["level"] = 0
        new = old | {key: json.dumps(entries | {"history": changed}).encode()}
        assert "only ever appended" in history_faults(old, new, maintainer=True)[0]
        edits += 1
    assert edits >= 20


def test_who_submits_does_not_verify(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    bare = {f"bc-v1/{path.name}": path.read_bytes() for path in folder.iterdir()}
    verified(folder, 1)
    full = {f"bc-v1/{path.name}": path.read_bytes() for path in folder.iterdir()}
    for old in ({}, bare):
        assert "never by who submits" in history_faults(old, full)[0]
        assert history_faults(old, full, maintainer=True) == []


def test_the_history_is_read_from_git(tmp_path: Path, monkeypatch, shipped: Path, capsys) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    monkeypatch.setattr(job, "ROOT", tmp_path.resolve())
    root = tmp_path / "subs"
    root.mkdir()
    (root / "README.md").write_text("What submissions are.")
    folder = copied(shipped, root)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    words = ["verify", folder.name, "--root", str(root), "--base", "HEAD"]
    (root / "README.md").write_text("Anybody may change this.")
    assert main(words) == 0
    (folder / "report.md").write_text("other")
    assert main(words) == 1
    assert "bc-v1/report.md was changed" in capsys.readouterr().out
    assert main([*words[:-1], "nowhere"]) == 2
    assert "option --base: git says" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- level 3
def test_the_committed_records_are_sound(capsys, tmp_path: Path) -> None:
    assert main(["verify", "--root", str(tmp_path)]) == 0
    assert "committed records are sound" in capsys.readouterr().out


def test_level_3_runs_only_the_code_that_made_the_record(foreign: Path, tmp_path: Path) -> None:
    item = next(iter(submission.read(foreign).records.values()))
    with pytest.raises(UserError, match="give its file with PLUGIN="):
        retrain.foreign_code(item, suite(), Verify())
    plugin = stranger(tmp_path)
    assert retrain.foreign_code(item, suite(), Verify(plugin=(str(plugin),))) == plugin
    plugin.write_text(plugin.read_text() + "\nraise SystemExit('this was run')\n")
    with pytest.raises(UserError, match="is not the code that made the record"):
        retrain.foreign_code(item, suite(), Verify(plugin=(str(plugin),)))


def test_a_retrained_seed_must_be_one_of_the_row(foreign: Path) -> None:
    row = list(submission.read(foreign).records.values())
    item = row[0]
    assert retrain.differences(item, item, row) == []
    other = replace(item, team_returns=[x + 1e-9 for x in item.team_returns])
    assert retrain.differences(item, other, row) != []
    elsewhere = replace(item, provenance=replace(item.provenance, cpu="another"))
    assert retrain.differences(elsewhere, other, row) == []
    far = replace(item, team_returns=[x + 1 for x in item.team_returns])
    assert retrain.differences(elsewhere, far, row) != []
    gone = replace(item, status="failed", reason="loss", returns=[], team_returns=[])
    assert retrain.differences(item, gone, row) != []
    assert retrain.differences(gone, gone, row) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Verify(hours=1 / 3600), "it was ended by signal"),
        (Verify(memory_gb=0.05), "it (failed|was ended)"),
    ],
)
def test_a_retraining_has_limits(options: Verify, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        retrain._limited(["train", "bc", TINY, "--out", str(tmp_path)], None, tmp_path, options)


@pytest.mark.slow
def test_level_3_of_foreign_code_and_of_our_own(
    data_root: Path, tmp_path: Path, monkeypatch
) -> None:
    assert main(["data", EXACT]) == 0
    monkeypatch.setenv("SECRET", "nobody's")
    plugin = stranger(tmp_path)
    spy = "import os, pathlib\npathlib.Path.home().joinpath('spy').write_text(str(os.environ))"
    text = plugin.read_text().replace("import torch\n", f"import torch\n{spy}\n", 1)
    plugin = tmp_path / "curious.py"
    plugin.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        folder = submitted("curious", tmp_path, "--plugin", str(plugin), dataset=EXACT)
    assert "SECRET" in (tmp_path / "spy").read_text()
    (tmp_path / "spy").unlink()
    done = bench(
        *("verify", folder.name, "--root", folder.parent, "--level", "3", "--run-code"),
        *("--plugin", plugin, "--record"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "level 3: retrained, fresh evaluation seeds from" in done.stdout
    assert not (tmp_path / "spy").exists()  # it saw another home, and no environment of ours
    (seen,) = verification.read(folder).history[-1].records.values()
    assert (seen.level, seen.how) == (3, "retrained")
    assert seen.first_episode_seed >= 1_000_000
    other = submitted("bc", tmp_path, dataset=EXACT)
    done = bench("verify", other.name, "--root", other.parent, "--level", "3", "--run-code")
    assert done.returncode == 0, done.stdout + done.stderr


def pretend(monkeypatch, made: dict[str, bytes], records: list = ()) -> list[list[str]]:  # type: ignore[assignment,type-arg]
    """Let the limited process do nothing but write files; returns what it was asked."""
    asked: list[list[str]] = []

    def run(arguments: list[str], plugin: object, folder: Path, options: Verify) -> None:
        asked.append(arguments)
        for name, data in made.items():
            (folder / name).write_bytes(data)
        for item in records:
            record.write(item, folder / "records")

    monkeypatch.setattr(retrain, "_limited", run)
    return asked


def test_who_trains_again_is_not_believed_either(shipped: Path, monkeypatch) -> None:
    own = submission.read(shipped)
    ((name, item),) = own.records.items()
    pretend(monkeypatch, {}, [replace(item, key="0" * 64)])
    with pytest.raises(UserError, match="its run key differs"):
        retrain.train(item, None, Verify())
    pretend(monkeypatch, {}, [replace(item, compiled=not item.compiled)])
    with pytest.raises(UserError, match="its run key differs"):
        retrain.train(item, None, Verify())
    pretend(monkeypatch, {}, [item])
    assert retrain.train(item, None, Verify()) == item
    with pytest.raises(UserError, match="has no seed 5"):
        retrain.verify_training(own, suite(), {}, 0, Verify(seed=5))
    seen = {name: checked(item)}
    assert retrain.verify_training(own, suite(), seen, 0, Verify())[1][name].level == 3
    pretend(monkeypatch, {}, [replace(item, team_returns=[x + 1 for x in item.team_returns])])
    (fault,), after = retrain.verify_training(own, suite(), seen, 0, Verify())
    assert "returns or losses are not those of the record" in fault
    assert after[name].level == 1


def test_fresh_episodes_of_foreign_code_are_counted_here(foreign: Path, monkeypatch) -> None:
    own = submission.read(foreign)
    name, item = next(iter(own.records.items()))
    file = f"trace-seed{item.seed}.safetensors"
    for data, words in (
        ({}, "left no trace of actions"),
        ({file: b"x" * 2**23}, "a trace of more than 4 MB"),
        ({file: b"x"}, "is not a valid trace"),
    ):
        pretend(monkeypatch, data)
        with pytest.raises(UserError, match=words):
            retrain.play(own, {name: item}, None, 5_000_000, Verify())
    pretend(monkeypatch, {file: own.blob(submission.trace_name(item))})
    (seen,) = retrain.play(own, {name: item}, None, 10_000, Verify()).values()
    assert (seen.level, seen.how, seen.first_episode_seed) == (2, "replayed", 10_000)
    assert seen.team_returns == item.team_returns


@pytest.mark.slow
def test_what_keeps_a_submission_from_being_written(
    data_root: Path, tmp_path: Path, capsys
) -> None:
    plugin = stranger(tmp_path)
    text = plugin.read_text().replace('return {"loss": loss.detach()}', 'return {"loss": loss}')
    plugin = tmp_path / "sloppy.py"
    plugin.write_text(text)
    options = ["--plugin", str(plugin), "--protocol", "smoke", "--out", str(tmp_path / "runs")]
    words = ["submit", "sloppy", "--submissions", str(tmp_path / "subs"), *options]
    assert main([*words, "--datasets", TINY]) == 2
    assert "sloppy breaks the contract in update" in capsys.readouterr().err
    assert not (tmp_path / "subs").exists()


def test_level_0_reads_and_no_more(shipped: Path, tmp_path: Path, capsys) -> None:
    folder = copied(shipped, tmp_path)
    words = ["verify", folder.name, "--root", str(tmp_path), "--level", "0"]
    assert main(words) == 0
    assert "level 0: it is well formed" in capsys.readouterr().out
    (folder / "mine.py").write_text("1/0")
    assert main(words) == 1
    assert main([*words[:1], "bc-v1", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("mine.py' is of no kind") == 2


# -------------------------------------------------------------------------- the page, as it stands
@pytest.mark.slow
def test_contributing_is_true(data_root: Path, tmp_path: Path) -> None:
    """The commands of CONTRIBUTING: an algorithm outside of the checkout, on a small dataset."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"<!-- begin:submit -->\n```\n(.*?)```", text, re.S)
    commands = [line.split("#")[0].strip() for line in block.splitlines() if line.strip()]
    assert [line.split()[1] for line in commands] == ["new", "check", "bench", "submit", "verify"]
    small = {
        "bench": f"DATASET={EXACT} PROTOCOL=smoke ARGS='--out {tmp_path}/runs'",
        "submit": f"DATASETS={EXACT} PROTOCOL=smoke"
        f" ARGS='--out {tmp_path}/runs --submissions {tmp_path}/subs'",
        "verify": f"ARGS='--root {tmp_path}/subs'",
    }
    # The options of a make that runs this test are not for those commands.
    env = {name: x for name, x in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "ARGS")}
    # What make would install is the Python that runs this test.
    make = f"make -o setup BIN={Path(sys.executable).parent} "
    for line in commands:
        line = line.replace("/path/to", str(tmp_path)).replace("make ", make, 1)
        line += f" {small.get(line.split()[4], '')}"
        words = ["bash", "-c", line]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=env)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "ok   mine-v1: level 2: replayed" in done.stdout
