"""The command line, one file per job. Nothing else knows datasets, algorithms and leaderboard."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, unknown_name

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("algorithms", "datasets", "leaderboard")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 something failed, 2 a user's mistake, 3 a
    run broke, 75 another process is in the way, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
        os.environ["BENCH_DEBUG"] = "1"
    # A scheduler's polite end is treated as Ctrl-C: the state is saved.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_parts()
        return run(parse(arguments))
    except UserError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt as error:
        said = (
            str(error) or "interrupted; nothing is broken, and the same command goes on from here."
        )
        print(f"\n{said}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, `| head` for instance
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 128 + signal.SIGPIPE


def run(command: Any) -> int:
    """Import the job of a command, which loads all that is heavy, and do it."""
    from benchmark.cli.options import JOBS

    module, function = JOBS[type(command)].split(".")
    job = getattr(importlib.import_module(f"benchmark.cli.{module}"), function)
    return int(job(command) or 0)


def check_parts() -> None:
    """The suite's folders must be this checkout's: `datasets` is also the name of a popular
    package.
    """
    for name in PARTS:
        found = importlib.util.find_spec(name)
        where = Path(found.origin).resolve().parent if found and found.origin else None
        if where != ROOT / name:
            raise UserError(
                f"the name {name!r} resolves to {where or 'nothing'}, expected {ROOT / name}; run"
                " from the checkout in its own environment (make setup)."
            )


def parse(arguments: list[str]) -> Any:
    """The command object of the arguments; `--config.name value` pairs go to its field `config`."""
    import tyro

    from benchmark.cli.options import COMMANDS

    arguments, config = split_config(arguments)
    if arguments[:1] == ["data"] and arguments[1:2] in (["import"], ["export"]):
        arguments = arguments[1:]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise unknown_name("command", arguments[0], COMMANDS)
    check_options(arguments, COMMANDS)
    try:
        command = _quietly(
            lambda: tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="python -m benchmark",
                description="The benchmark suite for offline multi-agent reinforcement learning.",
                args=arguments,
            ),
            arguments,
        )
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; run make setup.") from error
    if config:
        if not hasattr(command, "config"):
            raise UserError(f"option {config[0]} belongs to bench, train and grid only.")
        object.__setattr__(command, "config", tuple(config))
    return command


def check_options(arguments: list[str], commands: Mapping[str, type]) -> None:
    """Raise UserError for an option that the command has not: the parser would name those of other
    commands.
    """
    if not arguments or arguments[0] not in commands:
        return
    known = {"--help", *_options(commands[arguments[0]])}
    for argument in arguments[1:]:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in known:
            raise unknown_name(f"option of {arguments[0]}", option, known)


def _options(command: type) -> Iterator[str]:
    """The options of a command's fields, and of those that it shares with others."""
    import dataclasses
    import typing

    for name, kind in typing.get_type_hints(command).items():
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _options(kind)
        else:
            dashed = name.replace("_", "-")
            yield from (f"--{dashed}", f"--no-{dashed}") if kind is bool else (f"--{dashed}",)


def split_config(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take `--config.name value` (or =value) out of the arguments."""
    rest: list[str] = []
    config: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if not equals:
            try:
                value = next(waiting)
            except StopIteration:
                raise UserError(f"option {name} lacks its value.") from None
        config += [name, value]
    return rest, config


def parse_config(
    cls: type, defaults: dict[str, Any], pairs: Sequence[str], row: str
) -> dict[str, Any]:
    """Typed overrides of an algorithm's Config from `--config.name value` pairs."""
    import dataclasses

    import tyro

    fields = {field.name for field in dataclasses.fields(cls)}
    arguments: list[str] = []
    names = []
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        field = name.removeprefix("--config.").replace("-", "_")
        if field not in fields:
            raise unknown_name(f"configuration field of {row}", field, fields)
        names.append(field)
        arguments += ["--" + field.replace("_", "-"), value]
    parsed = _quietly(
        lambda: tyro.cli(
            cls,
            args=arguments,
            default=cls(**defaults),
            config=(tyro.conf.FlagConversionOff,),
        ),
        arguments,
        prefix="--config.",
    )
    return {name: getattr(parsed, name) for name in names}


def _quietly(parser: Any, arguments: list[str], prefix: str = "--") -> Any:
    """Run a tyro parser; its boxes become one sentence. --help goes through as it is."""
    caught = io.StringIO()
    try:
        if {"-h", "--help"} & set(arguments) or not arguments:
            return parser()
        with contextlib.redirect_stderr(caught), contextlib.redirect_stdout(caught):
            return parser()
    except SystemExit as exit_:
        if not caught.getvalue():
            raise
        raise UserError(f"{condense(caught.getvalue())}.".replace("--", prefix)) from exit_


def condense(box: str) -> str:
    """The parser's box as its message."""
    lines = [line.strip("│╭╰╮╯ ") for line in box.splitlines()]
    sections: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= {"─", "-"}:
            sections.append([])
        elif line and "─" not in line:
            sections[-1].append(line)
    sections = [section for section in sections if section]
    # Drawn round, the title stands in the frame; in ASCII it is a section of its own.
    body = sections[0] if "╭" in box or len(sections) == 1 else sections[1]
    return " ".join(body).rstrip(".")
