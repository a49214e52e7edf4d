"""What a user types wrongly is answered in one sentence and an exit code, with no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.cli import condense, main, split_config
from benchmark.errors import UserError

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
        ("bench bc --seeds a", "Error parsing --seeds"),
        ("bench bc --seds 1", "did you mean --seeds?"),
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
    assert condense(ascii_box) == condense(round_box) == ("Error parsing --x: no", "")


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
