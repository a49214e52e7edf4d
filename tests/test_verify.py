"""Verification finds what was forged: every kind of tampering is refused by name and reason."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark import record, registry, rng
from benchmark.cli import board, main
from benchmark.cli import verify as job
from benchmark.errors import UserError
from benchmark.protocol import VERIFICATION_SEEDS
from leaderboard import replay, submission, verify
from tests.conftest import ROOT
from tests.submitting import FIRST, Change, copied, faults, forged, record_files, sign, suite


@pytest.fixture(autouse=True)
def _no_results(monkeypatch, request, tmp_path_factory) -> None:
    """Reading every committed record costs half a second a command; one test does."""
    if "committed_records" not in request.node.name:
        monkeypatch.setattr(job, "RESULTS", tmp_path_factory.getbasetemp() / "none")


def test_honest_submissions_pass(foreign: Path, shipped: Path) -> None:
    for folder in (foreign, shipped):
        assert faults(folder) == []


# ----------------------------------------------------------------------------- forged and signed
def put(name: str, value: Any) -> Change:
    """Set a field, `a.b.0` for an inner one."""

    def change(values: dict[str, Any]) -> None:
        *path, last = name.split(".")
        inner: Any = values
        for part in path:
            inner = inner[int(part) if isinstance(inner, list) else part]
        inner[int(last) if isinstance(inner, list) else last] = value

    change.__name__ = f"{name}={str(value)[:20]}"
    return change


def bump(name: str, by: float) -> Change:
    def change(values: dict[str, Any]) -> None:
        values[name] = values[name] + by

    change.__name__ = f"{name}+{by}"
    return change


def drop(name: str) -> Change:
    def change(values: dict[str, Any]) -> None:
        del values[name]

    change.__name__ = f"without {name}"
    return change


def off_by(name: str, by: float = 1e-9) -> Change:
    def change(values: dict[str, Any]) -> None:
        if name == "returns":
            values["returns"][7][0] += by
        else:
            values[name][7] += by

    change.__name__ = f"{name} off by {by}"
    return change


def both_off(values: dict[str, Any]) -> None:
    values["returns"][7][0] += 1e-9
    values["team_returns"][7] = values["returns"][7][0]


def fewer_episodes(values: dict[str, Any]) -> None:
    del values["returns"][50:], values["team_returns"][50:]


def best_first(values: dict[str, Any]) -> None:
    values["returns"].sort(reverse=True)
    values["team_returns"].sort(reverse=True)


def without_data(values: dict[str, Any]) -> None:
    values |= {"dataset": "", "track": "online"}


def failed(values: dict[str, Any]) -> None:
    values |= {"status": "failed", "reason": "bad luck", "returns": [], "team_returns": []}


H = "0" * 64
RECORDS: list[tuple[Change, str]] = [
    (put("note", "x"), "note: unexpected"),
    (put("cost.note", "x"), "cost.note: unexpected"),
    (drop("seed"), "seed: field required"),
    (drop("cost"), "cost: field required"),
    (put("seed", True), "seed: input should be a valid integer"),
    (put("seed", "0"), "seed: input should be a valid integer"),
    (put("steps", 20.5), "steps: input should be a valid integer"),
    (put("compiled", 1), "compiled: input should be a valid boolean"),
    (put("team_returns.3", True), "team_returns.3: input should be a valid number"),
    (put("team_returns.3", "1e3"), "team_returns.3: input should be a valid number"),
    (put("returns.3", 1.0), "returns.3: input should be a valid array"),
    (put("cost.train_seconds", None), "cost.train_seconds"),
    (put("status", "fine"), "status"),
    (put("track", "best"), "track"),
    (put("level", 2), "level is 2: a level is given by make verify"),
    (put("schema", 2), "schema 2"),
    (put("key", "../../x"), "key is '../../x', expected a sha256"),
    (put("key", H), "which its name does not say"),
    (put("algo", "other"), "algo is 'other', expected stranger"),
    (put("algo", "stranger.a/b"), "algo is 'stranger.a/b'"),
    (put("paper", "arXiv:2305.17330 \u202e"), "not printable ASCII"),
    (put("paper", "x" * 501), "of at most 500 characters"),
    (put("notes", {"m\u0430ine": ""}), "not printable ASCII"),
    (put("notes", {"backend": "shuffle"}), "of a run with backend None"),
    (put("notes", {"precision": "bf16"}), "of a run with precision None"),
    (put("notes", {"backend": "ram"}), "notes.backend is 'ram', expected shuffle, or none"),
    (put("code_sha256", "abc"), "code_sha256 is 'abc', expected a sha256"),
    (put("code_sha256", H), "of a run with code"),
    (put("config.lr", 0.5), "of a run with config"),
    (put("steps", 10_000), "of a run with steps"),
    (put("steps", -1), "steps is -1, expected 0 or more"),
    (put("seed", 7), "seed is 7, the quick protocol has 0 to 2"),
    (put("seed", -1), "seed is -1, the quick protocol has 0 to 2"),
    (put("seed", 1), "group is"),
    (put("group", [0, 1]), "group is [0, 1]"),
    (put("group", [0, 1, 2]), "of a run with seeds"),
    (put("group", [9]), "group is [9]"),
    (put("task", "mpe/spraed-v1"), "references are of"),
    (put("dataset", "meanfield/squeeze-n100/expert-v1"), "is not listed on the card"),
    (put("dataset", "../../../etc/passwd"), "expected namespace/name/tier-vN"),
    (put("dataset", "a/b/c-v1"), "has no committed card"),
    (put("dataset", ""), "dataset is missing, and the track is offline"),
    (put("dataset_sha256", H), "is not listed on the card"),
    (without_data, "dataset_sha256 is given without a dataset"),
    (put("rankable", False), "is not listed on the card"),
    (put("protocol", "smoke"), "protocol is smoke, the manifest says quick"),
    (put("protocol", "best"), "unknown protocol 'best'"),
    (bump("protocol_version", 1), "protocol_version is 2, expected 1"),
    (put("first_episode_seed", 10_100), "first_episode_seed is 10100"),
    (fewer_episodes, "returns are of 50 episodes, the protocol has 100"),
    (off_by("team_returns"), "team_returns.7 is"),
    (off_by("returns"), "team_returns.7 is"),
    (both_off, "its trace, played again: returns.7 is"),
    (best_first, "its trace, played again: returns.0 is"),
    (put("returns.0", [1.0, 1.0]), "returns are not one for each of"),
    (put("groups", ["\u0430gent"]), "not printable ASCII"),
    (put("groups", ["winners"]), "groups are ['winners']"),
    (put("outcomes", {"win": [1.0] * 100}), "outcomes are ['win'], expected []"),
    (put("exact", {"value": 1.0}), "exact holds ['value']"),
    (put("reason", "none"), "a failure has a reason"),
    (failed, "is listed and not there|belongs to no record|belongs to no episode"),
    (put("cost.train_seconds", -1.0), "cost.train_seconds is -1.0, expected 0 or more"),
    (put("cost.parameters", -5), "cost.parameters is -5"),
    (put("cost.device", "cuda"), "of a run with device"),
    (put("tuning.configs_tried", -1), "tuning.configs_tried is -1"),
    (put("provenance.threads", 64), "provenance.threads is 64"),
    (put("checkpoint_sha256", H), "checkpoint_sha256 is 000000000000"),
    (put("curve.loss.0", 0.0), "curve is not the one in checkpoint-"),
    (put("curve.loss", [0.5]), "columns of different lengths"),
    (put("curve.step.0", 1e6), "curve.step does not rise"),
    (put("env_steps", -1), "env_steps is -1"),
]


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(RECORDS) + len(TEXTS) >= 60


def refused(folder: Path) -> list[str]:
    """What verify says of a folder, within a second of processor time."""
    begun = time.process_time()
    found = faults(folder)
    assert time.process_time() - begun < 1.0
    assert found, "accepted"
    return found


@pytest.mark.parametrize(("change", "words"), RECORDS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_forged_record_is_refused(
    change: Change, words: str, foreign: Path, tmp_path: Path
) -> None:
    folder = copied(foreign, tmp_path)
    path = record_files(folder)[0]
    with forged(path) as values:
        change(values)
    found = refused(folder)
    assert any(word in found[0] for word in words.split("|")), found[0]
    assert path.name in found[0] or "references" in found[0] or "belongs to no" in found[0]
    assert "\n" not in found[0]


TEXTS: list[tuple[Callable[[str], str], str]] = [
    (lambda text: "", "expecting value"),
    (lambda text: "[]", "should be an object"),
    (lambda text: text[:-20], "is not a valid record"),
    (lambda text: text.replace('"seed": 0', '"seed": 0, "seed": 1'), "'seed' stands twice"),
    (lambda text: text.replace('"lr": 0.001', '"lr": NaN'), "nan is not a finite number"),
    (lambda text: text.replace('"lr": 0.001', '"lr": -Infinity'), "-infinity is not a finite"),
    (lambda text: text.replace('"lr": 0.001', '"lr": 1e999'), "1e999 is not a finite number"),
    (lambda text: text.replace('"lr": 0.001', '"lr": 1_000'), "is not a valid record"),
    (lambda text: text.replace('"lr": 0.001', '"lr": ' + "[" * 9 + "]" * 9), "nested more than 8"),
    (lambda text: "[" * 100_000, "is not a valid record"),
    (lambda text: text.replace('"notes": {', '"notes": {"a": "\\ud800"'), "is not a valid record"),
    (lambda text: text + " " * record.MAX_BYTES, "bytes long"),
]


@pytest.mark.parametrize("case", range(len(TEXTS)))
def test_a_malformed_record_is_refused(case: int, foreign: Path, tmp_path: Path) -> None:
    change, words = TEXTS[case]
    folder = copied(foreign, tmp_path)
    path = next(p for p in record_files(folder) if '"seed": 0' in p.read_text())
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    sign(folder)
    found = refused(folder)
    assert str(path) in found[0]
    assert words in found[0].lower()


def test_every_change_without_a_new_hash_is_found(foreign: Path, tmp_path: Path) -> None:
    for name in sorted(p.name for p in foreign.iterdir() if p.name != submission.MANIFEST):
        folder = copied(foreign, tmp_path / name)
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        (found, *_) = faults(folder)
        assert name in found
        assert "is not the file that submission.json lists" in found


# ---------------------------------------------------------------------------- manifest and folder
MANIFESTS: list[tuple[Change, str]] = [
    (put("note", 1), "note: unexpected"),
    (put("id", "other-v1"), "expected the folder's name"),
    (put("schema", 9), "schema 9"),
    (put("code", "javascript:alert(1)"), "expected an https address"),
    (put("code", "https://a b"), "expected an https address"),
    (put("author", "\u0410lice"), "not printable ASCII"),
    (put("protocol", "smoke"), "protocol is quick, the manifest says smoke"),
    (put("protocol", "best"), "unknown protocol 'best'"),
    (put("references", {}), "references are of []"),
    (put("references.meanfield/squeeze-n100-v1.expert", True), "valid number"),
    (put("references.meanfield/squeeze-n100-v1.expert", 0.5), "expert 0.5, expected"),
    (put("files", {}), "is not listed"),
]


@pytest.mark.parametrize(("change", "words"), MANIFESTS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_forged_manifest_is_refused(
    change: Change, words: str, foreign: Path, tmp_path: Path
) -> None:
    folder = copied(foreign, tmp_path)
    with forged(folder / submission.MANIFEST) as values:
        change(values)
    assert words in faults(folder)[0]


def test_a_dataset_of_another_task_is_refused(foreign: Path, tmp_path: Path) -> None:
    folder = copied(foreign, tmp_path)
    for path in record_files(folder):
        with forged(path) as values:
            values["dataset"] = "mpe/spread/medium-v1"
    assert "mpe/spread/medium-v1 is data of mpe/spread-v1" in faults(folder)[0]


def test_swapped_references_are_refused(foreign: Path, tmp_path: Path) -> None:
    folder = copied(foreign, tmp_path)
    with forged(folder / submission.MANIFEST) as values:
        ends = values["references"]["meanfield/squeeze-n100-v1"]
        ends["random"], ends["expert"] = ends["expert"], ends["random"]
    assert "the references of meanfield/squeeze-n100-v1 are swapped" in faults(folder)[0]


def odd_files() -> dict[str, tuple[Callable[[Path], Any], str]]:
    return {
        "code": (lambda f: (f / "mine.py").write_text("1/0"), "is of no kind"),
        "pickle": (lambda f: (f / "checkpoint.pt").write_bytes(b""), "is of no kind"),
        "archive": (lambda f: (f / "data.zip").write_bytes(b""), "is of no kind"),
        "hidden": (lambda f: (f / ".git").mkdir(), "is no regular file"),
        "half written": (lambda f: (f / ".tmp-x.py").write_text(""), "is of no kind"),
        "folder": (lambda f: (f / "more").mkdir(), "is no regular file"),
        "link": (lambda f: swap(f, os.symlink), "is no regular file"),
        "fifo": (lambda f: swap(f, lambda _, path: os.mkfifo(path)), "is no regular file"),
        "upper case": (lambda f: (f / "Report.md").write_text(""), "is of no kind"),
        "look-alike": (lambda f: (f / "r\u0435port.md").write_text(""), "is of no kind"),
        "large report": (lambda f: (f / "report.md").write_text("x" * 2**20), "bytes long"),
        "unlisted": (lambda f: (f / f"checkpoint-{'0' * 12}.safetensors").touch(), "not listed"),
        "missing": (lambda f: (f / "report.md").unlink(), "is listed and not there"),
        "no manifest": (lambda f: (f / "submission.json").unlink(), "lacks submission.json"),
        "no plot": (lambda f: ((f / "plot.png").write_text("<svg>"), sign(f)), "is no PNG file"),
    }


def swap(folder: Path, make: Callable[[Any, Path], Any]) -> None:
    (folder / "report.md").unlink()
    make("/etc/passwd", folder / "report.md")


@pytest.mark.parametrize("case", odd_files())
def test_a_folder_of_anything_but_data_is_refused(case: str, foreign: Path, tmp_path: Path) -> None:
    change, words = odd_files()[case]
    folder = copied(foreign, tmp_path)
    change(folder)
    (found,) = faults(folder)[:1]
    assert words in found


def test_every_seed_of_the_protocol_must_be_there(foreign: Path, tmp_path: Path) -> None:
    folder = copied(foreign, tmp_path)
    gone = record_files(folder)[0]
    for path in folder.glob(f"*{gone.name[7:19]}*"):
        path.unlink()
    sign(folder)
    assert "the protocol wants each of [0, 1, 2] once" in faults(folder)[0]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("checkpoint", "is missing: submission.json does not list it"),
        ("trace", "is missing: submission.json does not list it"),
        ("record", "belongs to no record"),
        ("", "lists no record"),
    ],
)
def test_every_kind_of_file_must_be_there(
    kind: str, words: str, foreign: Path, tmp_path: Path
) -> None:
    folder = copied(foreign, tmp_path)
    gone = list(folder.glob(f"{kind}*"))[:1] if kind else list(folder.iterdir())
    for path in gone:
        if path.name != submission.MANIFEST:
            path.unlink()
    sign(folder)
    assert any(words in fault for fault in faults(folder))


def test_a_manifest_lists_neither_itself_nor_its_verification(
    foreign: Path, tmp_path: Path
) -> None:
    for name in (submission.MANIFEST, submission.VERIFICATION):
        folder = copied(foreign, tmp_path / name)
        with forged(folder / submission.MANIFEST) as values:
            values["files"][name] = {"bytes": 1, "sha256": H}
        assert "lists itself or verification.json" in faults(folder)[0]


def test_a_run_counts_once(foreign: Path, tmp_path: Path) -> None:
    folder = copied(foreign, tmp_path)
    first, second = record_files(folder)[:2]
    second.write_text(first.read_text())
    sign(folder)
    assert "which its name does not say" in faults(folder)[0]


def test_floors_cannot_be_submitted_as_something_else(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    with forged(record_files(folder)[0]) as values:
        values["code_sha256"] = H
    assert "a floor of every board, and its code is not this checkout's" in faults(folder)[0]


# -------------------------------------------------------------------------------------- checkouts
@pytest.mark.parametrize(
    ("name", "value"), [("paper", "none"), ("execution", "joint"), ("config", {}), ("steps", 9_999)]
)
def test_what_the_checkouts_code_says_is_believed(
    name: str, value: Any, shipped: Path, tmp_path: Path
) -> None:
    folder = copied(shipped, tmp_path)
    with forged(record_files(folder)[0]) as values:
        values[name] = value
    assert f"{name} is " in faults(folder)[0]
    assert "the code of bc says" in faults(folder)[0]


def test_the_tuning_budget_is_the_codes(shipped: Path, tmp_path: Path) -> None:
    folder = copied(shipped, tmp_path)
    with forged(record_files(folder)[0]) as values:
        values["tuning"]["online_episodes"] += 1
    assert "tuning is " in faults(folder)[0]


# -------------------------------------------------------------------------------- all together
def test_seeds_of_one_row_are_made_alike(foreign: Path) -> None:
    own = submission.read(foreign)
    name, item = next(iter(own.records.items()))
    for change, words in (
        ({"config": {"lr": 1.0}}, "config is not the same for all seeds"),
        ({"execution": "joint"}, "execution is not the same for all seeds"),
        ({"code_sha256": H}, "code_sha256 is not the same in all records"),
    ):
        own.records[name] = replace(item, **change)  # type: ignore[arg-type]
        assert words in next(verify._group_faults(own)), change
    own.records[name] = item
    assert list(verify._group_faults(own)) == []


def test_a_file_that_belongs_to_nothing_is_refused(foreign: Path, tmp_path: Path) -> None:
    folder = copied(foreign, tmp_path)
    (folder / f"checkpoint-{'0' * 12}.safetensors").write_bytes(b"x")
    sign(folder)
    assert "checkpoint-000000000000.safetensors belongs to no record" in faults(folder)[0]


def test_nothing_is_ranked_without_a_reference(foreign: Path, tmp_path: Path) -> None:
    folder = copied(foreign, tmp_path)
    for task, words in (
        ("meanfield/squeeze-n77-v1", "has no committed"),
        ("a/b-v1", "references: unknown"),
    ):
        for path in record_files(folder):
            with forged(path) as values:
                values["task"] = task
        with forged(folder / submission.MANIFEST) as values:
            (ends,) = values["references"].values()
            values["references"] = {task: ends}
        assert words in faults(folder)[0]


def test_committed_records_are_held_to_their_sums_and_keys() -> None:
    path = next((ROOT / "leaderboard" / "results").rglob("*.json"))
    item = record.read(path)
    assert list(verify.result_faults(item, suite())) == []
    for change, words in (
        ({"level": 2}, "level is 2"),
        ({"team_returns": [x + 1e-9 for x in item.team_returns]}, "team_returns.0 is"),
        ({"dataset_sha256": H}, "is not listed"),
        ({"env_steps": -1}, "env_steps is -1"),
        ({"key": H}, "key is '000000000000'"),
        ({"steps": item.steps + 1}, "a field of the run was changed"),
        ({"config": item.config | {"lr": 0.5}}, "a field of the run was changed"),
        ({"code_sha256": H}, "a field of the run was changed"),
        ({"group": [98, 99]}, "a field of the run was changed"),
        ({"first_episode_seed": 5}, "first_episode_seed is 5"),
        ({"seed": 77}, "seed is 77, which is not in its group"),
        ({"provenance": replace(item.provenance, dirty=True)}, "not that of a commit"),
    ):
        bad = replace(item, **change)  # type: ignore[arg-type]
        assert words in next(verify.result_faults(bad, suite())), change


def test_the_board_shows_level_1_for_committed_records_that_verify_finds_sound(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    source = next((ROOT / "leaderboard" / "results").rglob("*.json"))
    good = record.read(source)
    off = [good.team_returns[0] + 1e-9, *good.team_returns[1:]]
    bad = replace(good, seed=good.seed + 100, group=[good.seed + 100], team_returns=off)
    results = tmp_path / "leaderboard" / "results"
    for item in (good, bad):
        record.write(item, results)
    for module in (board, job):
        monkeypatch.setattr(module, "RESULTS", results)
    assert {item.seed: item.level for item in board.committed()} == {good.seed: 1, bad.seed: 0}
    assert main(["verify", "--root", str(tmp_path / "none")]) == 1
    said = capsys.readouterr().out
    assert (
        f"FAIL leaderboard/results/{bad.path(results).relative_to(results)}: team_returns.0 is"
        in said
    )
    assert "1 of 2 committed records are sound" in said
    bad.path(results).write_text("{}")
    with pytest.raises(UserError, match="is not a valid record"):
        board.committed()


def test_limits_of_a_folder(foreign: Path, tmp_path: Path, monkeypatch) -> None:
    for name, value, words in (
        ("MAX_FILES", 5, "files, at most 5 may be"),
        ("MAX_TOTAL", 1000, "bytes large, at most 1000 may be"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(submission, name, value)
            with pytest.raises(UserError, match=words):
                submission.names(foreign)
    folder = copied(foreign, tmp_path)
    (folder / "report.md").write_bytes(b" " * 2**20)
    with pytest.raises(UserError, match="1048576 bytes long, at most 262144 may be"):
        submission.names(folder)
    with pytest.raises(UserError, match="is no folder"):
        submission.names(tmp_path / "mine-v1")
    (tmp_path / "mine-v1").symlink_to(foreign)
    with pytest.raises(UserError, match="is no folder"):
        submission.names(tmp_path / "mine-v1")
    for name in ("mine", "Mine-v1", "m\u0430ine-v1", "mine-v0", "mine-v01", "-rf", "mine-v1.git"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match="a submission's name is <algorithm>-v<N>"):
            submission.names(tmp_path / name)


def test_a_file_is_opened_only_where_it_is_one(foreign: Path, tmp_path: Path) -> None:
    """Also where it was swapped since the folder was listed."""
    (tmp_path / "report.md").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="cannot read"):
        submission.read_bytes(tmp_path, "report.md")
    with pytest.raises(UserError, match="is of no kind"):
        submission.read_bytes(tmp_path, "../report.md")
    os.mkfifo(tmp_path / "plot.png")
    with pytest.raises(UserError, match="is no regular file"):
        submission.read_bytes(tmp_path, "plot.png")
    (tmp_path / "submission.json").write_bytes(b" " * 2**19)
    with pytest.raises(UserError, match="524288 bytes long, at most 262144"):
        submission.read_bytes(tmp_path, "submission.json")


# ---------------------------------------------------------------------------------------- flags
def test_a_copied_checkpoint_is_flagged(shipped: Path) -> None:
    own = submission.read(shipped)
    (item,) = own.records.values()
    held = replace(suite(), checkpoints={item.checkpoint_sha256: "theirs-v1"})
    assert "is the very file of theirs-v1" in verify.flags(own, held)[0]
    assert not [flag for flag in verify.flags(own, suite()) if "very file" in flag]


def test_verify_runs_no_code_of_a_submission(foreign: Path, monkeypatch, capsys) -> None:
    """Below level 3 no algorithm is even looked for that the checkout has not got."""

    def refuse(self: registry.Algorithms, name: str) -> type:
        raise AssertionError(f"{name} was imported")

    monkeypatch.setattr(registry.Algorithms, "cls", refuse)
    root = str(foreign.parent)
    assert main(["verify", foreign.name, "--root", root, "--level", "2"]) == 0
    assert f"ok   {foreign.name}: level 2: replayed" in capsys.readouterr().out


def test_verify_ends_with_an_error_where_anything_is_wrong(
    foreign: Path, tmp_path: Path, capsys
) -> None:
    folder = copied(foreign, tmp_path)
    assert main(["verify", folder.name, "--root", str(tmp_path)]) == 0
    (folder / "report.md").write_text("We win.")
    assert main(["verify", folder.name, "--root", str(tmp_path)]) == 1
    assert f"FAIL {folder.name}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("verify strangr-v1", "unknown submission 'strangr-v1'; did you mean 'stranger-v1'?"),
        ("verify --level 3", "add --run-code where you have read it"),
        ("verify --plugin x.py", "below level 3 no foreign code is run"),
        ("verify --level 4", "invalid choice '4'"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: str, words: str, foreign: Path, capsys) -> None:
    assert main([*arguments.split(), "--root", str(foreign.parent)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_fresh_seeds_differ_and_are_nobodys() -> None:
    drawn = [replay.fresh_seeds(100, np.random.default_rng()) for _ in range(5)]
    assert len({seeds.start for seeds in drawn}) == 5
    assert all(seeds.start >= 1_000_000 and seeds.stop <= 1_000_000_000 for seeds in drawn)


def test_what_ranks_are_the_fresh_episodes(shipped: Path) -> None:
    own = submission.read(shipped)
    (item,) = own.records.values()
    found, seen = replay.verify_episodes(own, suite(), FIRST)
    (entry,) = seen.values()
    assert found == []
    assert (entry.level, entry.how, entry.first_episode_seed) == (2, "re-evaluated", FIRST)
    assert len(entry.team_returns) == len(item.team_returns)
    assert entry.team_returns != item.team_returns


# --------------------------------------------------------------------------------- sealed seeds
def test_fresh_seeds_are_told_by_a_verification_and_by_nothing_before_it(
    shipped: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No generator, hash seed or earlier verification says them, nor does what fails."""
    drawn: list[int] = []
    outcome: list[str] = []

    def verify_episodes(own: Any, suite: Any, first: int) -> tuple[list[str], dict[str, Any]]:
        drawn.append(first)
        return outcome, {}

    monkeypatch.setattr(replay, "verify_episodes", verify_episodes)
    words = ["verify", shipped.name, "--root", str(shipped.parent), "--level", "2"]
    for faults_of in ([], ["its trace, played again, has other returns"]):
        for _ in range(2):
            outcome[:] = faults_of
            rng.seed_all(0)
            assert main(words) == bool(faults_of)
    assert len(set(drawn)) == len(drawn) == 4
    assert all(first in VERIFICATION_SEEDS for first in drawn)
    said = capsys.readouterr()
    for first in drawn:
        assert str(first) not in said.out + said.err


def test_fresh_seeds_stand_in_no_committed_file() -> None:
    """Seeds of episodes in records, references, cards and studies are below them."""
    below = range(VERIFICATION_SEEDS.start)
    found = 0
    for folder in ("leaderboard", "datasets", "benchmark"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".json", ".toml", ".py") and "submissions" not in path.parts:
                named = re.findall(r"seeds?\"?\s*[=:]\s*(\d+)\b", path.read_text())
                assert all(int(seed) in below for seed in named), path
                found += len(named)
    assert found > 100
