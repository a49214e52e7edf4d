"""What a user types wrongly is answered in one sentence and an exit code, with no traceback."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from benchmark import record
from benchmark.cli import condense, main, split_config
from benchmark.errors import UserError
from tests.conftest import TINY

PLUGINS = Path(__file__).parent / "plugins"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("bnch bc", "unknown command 'bnch'; did you mean 'bench'?"),
        ("bench mfdiffuer", "unknown algorithm 'mfdiffuer'; did you mean 'mfdiffuser'?"),
        ("bench bc.fats", "unknown variant of bc 'fats'"),
        ("bench bc --dataset mpe/spred/medium-v1", "did you mean 'mpe/spread/medium-v1'?"),
        (
            "bench bc --task mpe/spraed-v1",
            "unknown task 'mpe/spraed-v1'; did you mean 'mpe/spread-v1'?",
        ),
        ("bench bc --task a --dataset b", "--dataset and --task were both given"),
        ("bench bc --protocol quik", "invalid choice 'quik'"),
        ("bench bc --workers -1", "option --workers: found -1, expected 0 or more."),
        ("bench bc --seeds a", "Error parsing --seeds"),
        ("bench bc --seds 1", "unknown option of bench '--seds'; did you mean '--seeds'?"),
        ("leaderboard --dataset x", "unknown option of leaderboard '--dataset'"),
        ("bench bc --plugin nowhere.py", "plug-in nowhere.py is not there"),
        ("bench", "Missing from"),
        ("check", "check wants one of ALGO=, TASK= and DATASET=, found none."),
        ("data", "expected one of them"),
        ("data mpe/spread/medum-v1", "did you mean 'mpe/spread/medium-v1'?"),
        ("reference meanfield/beach-v1", "unknown task"),
        ("leaderboard --records nowhere", "nowhere is not a folder of records"),
        ("lint nowhere.hdf5", "nowhere.hdf5"),
        ("check --config.lr 1", "option --config.lr belongs to bench, train and grid only"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: str, words: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("error: ")
    assert said.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--config.lr abc", "Error parsing --config.lr: could not convert"),
        ("--config.lrr 1", "unknown configuration field of bc 'lrr'; did you mean 'lr'?"),
        ("--config.lr nan", "configuration of bc: lr is nan, expected a finite number."),
        ("--config.lr", "option --config.lr lacks its value."),
        ("--device abacus", "option --device: 'abacus' cannot be used here"),
        ("--steps -4", "option --steps: found -4, expected 0 or more."),
        ("--seeds 1 1", "option SEEDS: found [1, 1]"),
        ("--out /dev/null/x", "a part of its path is a file, not a folder"),
        ("--track wandb", "option --track wandb needs the package wandb"),
    ],
)
def test_wrong_settings_of_a_run_are_one_sentence(
    arguments: str, words: str, data_root: Path, tmp_path: Path, capsys
) -> None:
    if arguments == "--track wandb" and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed here")
    common = ["train", "bc", TINY, "--protocol", "smoke", "--progress", "none"]
    assert main([*common, "--out", str(tmp_path), *arguments.split()]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


def test_overrides_reach_the_run(data_root: Path, tmp_path: Path) -> None:
    words = f"train bc {TINY} --protocol smoke --progress none --steps 2 --out {tmp_path}"
    assert main([*words.split(), "--config.lr", "1e-4", "--config.width", "32"]) == 0
    (made,) = record.read_all([tmp_path / "records"])
    assert (made.config["lr"], made.config["width"]) == (1e-4, 32)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"hello", "is not an HDF5 file"),
        (b"<html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    ],
)
def test_a_damaged_dataset_is_named(content, words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OFFLINE_MARL_DATA", str(tmp_path))
    path = tmp_path / f"{TINY}.hdf5"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert main(["train", "bc", TINY, "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert str(path) in said
    assert words in said


def test_config_overrides_are_taken_out_in_both_spellings() -> None:
    rest, config = split_config(
        ["bench", "bc", "--config.lr", "1", "--seeds", "0", "--config.width=3"]
    )
    assert rest == ["bench", "bc", "--seeds", "0"]
    assert config == ["--config.lr", "1", "--config.width", "3"]
    with pytest.raises(UserError, match="lacks its value"):
        split_config(["--config.lr"])


def test_both_forms_of_the_parsers_boxes_are_condensed() -> None:
    ascii_box = "Value error\n-----\nError parsing --x: no.\n-----\nFor full helptext, run --help\n"
    round_box = "╭─ Value error ─╮\n│ Error parsing --x: no. │\n│ ───── │\n│ For help │\n╰─────╯\n"
    assert condense(ascii_box) == condense(round_box) == "Error parsing --x: no"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ValueError('boom')", "could not be imported: ValueError: boom"),
        ("x = 1", "defines 0 concrete subclasses of benchmark.algorithm.Algorithm"),
        ("def f(:", "could not be imported: SyntaxError"),
    ],
)
def test_a_plugin_that_is_none_is_named(tmp_path: Path, source: str, words: str, capsys) -> None:
    path = tmp_path / f"mine{abs(hash(source)) % 10**6}.py"
    path.write_text(source)
    assert main(["check", "--algo", path.stem, "--plugin", str(path)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_catalogue_lists_every_dataset(capsys: pytest.CaptureFixture) -> None:
    assert main(["datasets"]) == 0
    listed = capsys.readouterr().out
    for name in ("mpe/spread/medium-replay-v1", "meanfield/squeeze-n1000/medium-v1"):
        assert name in listed
