"""JSON that a stranger wrote, read strictly: unknown or doubled fields, NaN, infinity, bools as
numbers and deep nesting are refused in one sentence.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from benchmark.errors import UserError

MAX_DEPTH = 8
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_EXPONENT = re.compile(rb"[eE]\+?\d{3}")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as int8: a bracket opens or closes
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def parse(text: str | bytes, adapter: Any, source: str, what: str, max_bytes: int) -> Any:
    """The value of `adapter`, a pydantic TypeAdapter of dataclasses that `strictly` has prepared.

    Raises UserError that names `source`, what it should be, the field and the reason.
    """
    from pydantic import ValidationError

    def wrong(reason: object) -> UserError:
        flat = " ".join(str(reason).split())[:300].rstrip(".")
        return UserError(f"{source} is not a valid {what}: {flat}.")

    try:
        data = text.encode() if isinstance(text, str) else text
        if len(data) > max_bytes:
            raise UserError(f"{source} is {len(data)} bytes long, expected at most {max_bytes}.")
        bare = _STRING.sub(b"", data)
        _check_depth(bare)
        json.loads(
            data.decode(),
            object_pairs_hook=_refuse_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite if _large(bare) else None,  # a call for each costs time
        )
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise wrong(f"{where}: {first['msg'].lower()}") from error
    except (ValueError, RecursionError) as error:  # of Unicode too
        raise wrong(error) from error


def strictly(kind: type, *others: type) -> Any:
    """A TypeAdapter of plain dataclasses, `kind` and those that it holds, that converts nothing."""
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    for each in (kind, *others):
        setattr(each, "__pydantic_config__", config)  # noqa: B010
    return TypeAdapter(kind)


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"field {key!r} stands twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def _large(bare: bytes) -> bool:
    """Whether a number might be too large for a float."""
    longest = max(map(len, bare.replace(b",", b" ").split()), default=0)
    return longest >= 300 or bool(_EXPONENT.search(bare))


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


def _check_depth(bare: bytes) -> None:
    """`bare`: JSON without its strings, so that every bracket nests."""
    steps = np.frombuffer(bare.translate(_STEPS, _OTHERS), np.int8)
    if steps.cumsum(dtype=int).max(initial=0) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
