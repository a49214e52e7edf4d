"""Claims of papers as cards, and what our records and studies say of them.

One TOML in `leaderboard/claims` is one claim: what the paper says and where, what is done here, and
tests that all must hold. The verdict is computed, a pure function of card, records and studies:

    reproduced, not reproduced   by the published method, budget and data
    supported, not supported     by a reconstruction, a smaller budget, other data or a study
    not yet measured             a record or study is missing, or seeds are too few
    cannot be tested             the suite lacks what a test needs

A test holds where the whole 95% interval keeps its bound, and fails else; with fewer than 5 seeds
it says neither. One failed test fails the claim.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from benchmark import provenance
from benchmark.errors import UserError
from leaderboard import measures, studies
from leaderboard.columns import number
from leaderboard.measures import Evidence, Measured, Missing
from leaderboard.rows import Row
from leaderboard.scores import BOOTSTRAP_FROM, Estimate

FOLDER = Path(__file__).parent / "claims"
WANTED = 10  # seeds that a claim should have
PROTOCOLS = ("full", "quick")  # the first that has all a test asks for; smoke answers no claim
VERDICTS = (
    "reproduced",
    "not reproduced",
    "supported",
    "not supported",
    "not yet measured",
    "cannot be tested",
)
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
AnyTest = Annotated[
    measures.Contrast
    | measures.Trend
    | measures.Against
    | measures.SpeedUp
    | studies.Study
    | studies.StudyRatio,
    Field(discriminator="measure"),
]


@checked(frozen=True, config=STRICT)
class Card:
    """A claim, as its paper makes it."""

    title: str
    method: str
    paper: str
    says: str
    where: str  # in the paper
    protocol: str  # what is done here
    test: list[AnyTest]
    figure: str = ""  # of leaderboard/figures/claims, that shows what was measured
    published_rows: list[str] = Field(default_factory=list)  # rows that are the published method
    name: str = ""  # the file's


Outcome = Literal["holds", "fails", "few seeds", "missing", "impossible"]


@dataclass(frozen=True)
class Part:
    """One test: what was measured, and what follows."""

    test: measures.Test
    found: tuple[Measured, ...]
    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Finding:
    card: Card
    parts: tuple[Part, ...]
    verdict: str  # one of VERDICTS
    reason: str

    @property
    def measured(self) -> str:
        """What was measured, in words; "" where nothing was."""
        return "; ".join(filter(None, (said(part) for part in self.parts)))


def load(folder: Path = FOLDER) -> list[Card]:
    """The cards of a folder by name; a malformed one raises UserError."""
    return [read(path) for path in sorted(folder.glob("*.toml"))]


def read(path: Path) -> Card:
    try:
        values = tomllib.loads(path.read_text())
        card: Card = _ADAPTER.validate_python(values | {"name": path.stem})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read claim {path}: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise UserError(f"claim {path}: {field}: {first['msg'].lower()}.") from error
    if not card.test:
        raise UserError(f"claim {path} has no [[test]], expected at least one.")
    for i, test in enumerate(card.test):
        if test.within is None and test.above is None and test.below is None:
            raise UserError(
                f"claim {path}: test.{i} has no bound, expected above, below or within."
            )
    return card


_ADAPTER = TypeAdapter(Card)


def judge(card: Card, evidence: Evidence, published_data: Callable[[str], bool]) -> Finding:
    """The verdict on a card; `published_data` says of a dataset whether it is the papers' own."""
    parts = tuple(_part(test, evidence) for test in card.test)
    outcomes = {part.outcome for part in parts}
    rows = [row for part in parts for found in part.found for row in found.rows]
    as_published = bool(rows) and not any(part.found and not part.found[0].rows for part in parts)
    for row in rows:
        as_published &= _as_published(row, card, published_data)
    word = "reproduced" if as_published else "supported"
    if "fails" in outcomes:
        return Finding(card, parts, f"not {word}", _reasons(parts, "fails"))
    if "impossible" in outcomes:
        return Finding(card, parts, "cannot be tested", _reasons(parts, "impossible"))
    if open_ := outcomes & {"missing", "few seeds"}:
        return Finding(card, parts, "not yet measured", _reasons(parts, *sorted(open_)))
    return Finding(card, parts, word, _reasons(parts, "holds"))


def _as_published(row: Row, card: Card, published_data: Callable[[str], bool]) -> bool:
    """Method, budget and data are the paper's; other rows are its baselines, so budget and data."""
    own = row.algo not in card.published_rows and row.algo.split(".")[0] in {
        name.split(".")[0] for name in card.published_rows
    }
    return not (
        own
        or not card.published_rows
        or row.reconstruction
        or row.board.protocol != "full"
        or not published_data(row.board.dataset)
    )


def _measure(test: measures.Test, evidence: Evidence) -> tuple[Measured, ...]:
    """What a test measures under one protocol, so that a first seed of the full one takes no
    verdict away. Raises Missing with what the quick one lacks.
    """
    for name in PROTOCOLS:
        try:
            return _measure_newest(test, evidence.under(name))
        except Missing as error:
            lacks = error
    raise lacks


def _measure_newest(test: measures.Test, evidence: Evidence) -> tuple[Measured, ...]:
    """What a test measures, with each algorithm in one version of its code: the newest that has all
    records that the test asks for. Raises Missing with what the newest lacks.
    """
    versions: dict[str, dict[str, str]] = {}  # algorithm -> hash of its code -> when it last ran
    for run in (run for row in evidence.rows for run in row.runs):
        codes = versions.setdefault(run.algo.split(".")[0], {})
        code = provenance.first_code(run.code_sha256)
        codes[code] = max(codes.get(code, ""), run.provenance.finished)
    for name, codes in sorted(versions.items()):
        if len(codes) < 2 or not re.search(rf"'{name}[.']", repr(test)):
            continue
        newest_first = sorted(codes, key=lambda code: (codes[code], code), reverse=True)
        only = [
            replace(evidence, rows=[row for row in evidence.rows if _is_version(row, name, code)])
            for code in newest_first
        ]
        evidence = next((one for one in only if _is_measured(test, one)), only[0])
    return tuple(test.measured(evidence))


def _is_measured(test: measures.Test, evidence: Evidence) -> bool:
    try:
        test.measured(evidence)
    except Missing:
        return False
    return True


def _is_version(row: Row, name: str, code: str) -> bool:
    if row.algo.split(".")[0] != name or not row.runs:
        return True
    return provenance.first_code(row.runs[0].code_sha256) == code


def _part(test: measures.Test, evidence: Evidence) -> Part:
    try:
        found = _measure(test, evidence)
    except Missing as error:
        return Part(test, (), "missing" if error.possible else "impossible", str(error))
    seeds = min((m.seeds for m in found if m.seeds is not None), default=None)
    bound = _bound(test)
    if seeds is not None and seeds < BOOTSTRAP_FROM:
        reason = f"{seeds} seeds; a verdict wants {BOOTSTRAP_FROM} or more, a claim {WANTED}"
        return Part(test, found, "few seeds", reason)
    bad = [m.estimate for m in found if not test.holds(m.estimate)]
    few = "" if seeds is None or seeds >= WANTED else f" ({seeds} of the {WANTED} seeds wanted)"
    if bad:
        where = "" if len(found) == 1 else f" in {len(bad)} of {len(found)} cells"
        return Part(test, found, "fails", f"the interval is not {bound}{where}{few}")
    return Part(test, found, "holds", f"the interval is {bound}{few}")


def _bound(test: measures.Test) -> str:
    if test.within is not None:
        return f"within {test.within[0]:g} to {test.within[1]:g}"
    said = [f"above {test.above:g}"] if test.above is not None else []
    said += [f"below {test.below:g}"] if test.below is not None else []
    return " and ".join(said)


def _reasons(parts: Sequence[Part], *outcomes: str) -> str:
    return "; ".join(dict.fromkeys(part.reason for part in parts if part.outcome in outcomes))


def said(part: Part) -> str:
    """ "75.7 [71.2, 80.1] points (5 seeds)", or the range of several cells."""
    if not part.found:
        return ""
    unit = f" {part.test.unit}" if part.test.unit else ""
    seeds = min((m.seeds for m in part.found if m.seeds is not None), default=None)
    counted = "" if seeds is None else f" ({seeds} seeds)"
    if len(part.found) == 1:
        return f"{_shown(part.found[0].estimate)}{unit}{counted}"
    low = min(part.found, key=lambda m: m.estimate.value).estimate
    high = max(part.found, key=lambda m: m.estimate.value).estimate
    return f"{_shown(low)} to {_shown(high)}{unit} in {len(part.found)} cells{counted}"


def _shown(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return _compact(found.value)
    return f"{_compact(found.value)} [{_compact(found.low)}, {_compact(found.high)}]"


def _compact(value: float) -> str:
    """Three figures, and no more than three decimals."""
    return number(value, 3) if abs(value) >= 0.1 else f"{value:z.3f}"


def judge_all(
    cards: Sequence[Card], evidence: Evidence, published_data: Callable[[str], bool]
) -> list[Finding]:
    return [judge(card, evidence, published_data) for card in cards]


def flat(finding: Finding) -> dict[str, Any]:
    """A finding as plain values, for JSON and CSV."""
    return {
        "claim": finding.card.name,
        "method": finding.card.method,
        "paper": finding.card.paper,
        "title": finding.card.title,
        "says": finding.card.says,
        "where": finding.card.where,
        "protocol": finding.card.protocol,
        "measured": finding.measured,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "tests": [
            {
                "bound": _bound(part.test),
                "paper": part.test.paper,
                "outcome": part.outcome,
                "reason": part.reason,
                "values": [
                    {"value": m.estimate.value, "low": m.estimate.low, "high": m.estimate.high,
                     "seeds": m.seeds, "records": sorted(run.key for r in m.rows for run in r.runs)}
                    for m in part.found
                ],
            }
            for part in finding.parts
        ],
    }  # fmt: skip
