"""Findings on a dataset file: what the format allows and is still probably a mistake.

A finding is one sentence, "kind: /field at (index) is ..., expected ...; how to mend it". Kinds:

    done flags     neither or both of terminated and truncated; time limits marked as terminals
    horizon        episodes longer than the task allows, or cut before the limit
    boundaries     episodes that begin or end one step early or late (`datasets.continuity`)
    NaN            NaN or infinity anywhere
    range          integers, actions, flags, log-probabilities or outcomes that cannot be
    returns        declared against measured returns
    next obs       final observations that were copied from another row
    duplicates     episodes that repeat an earlier one
    dead actions, dead agents   values that never change, agents that rise or act or earn when dead
    active         steps in which nobody acts
    population     a stored distribution that is not the agents'
    card           values that are not those of the dataset's card, swapped columns by name
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError
from datasets import cardfile, library, linter_episodes, linter_values
from datasets.continuity import boundaries, copied_finals
from datasets.loader import Dataset


def lint(path: Path | str) -> list[str]:
    """One sentence per finding, each with the first place where it shows; [] is a clean file.

    A file that cannot be opened gives one finding, the reason. A path that is no file is taken as
    a dataset's id.
    """
    if not Path(path).exists() and library.path(str(path)).exists():
        path = library.path(str(path))
    try:
        data = library.load_file(path, card={})
    except UserError as error:
        return [str(error)]
    card = cardfile.read_card(Path(path).with_suffix(".toml"))
    card = card or cardfile.read_card(cardfile.card_path(data.id))
    with np.errstate(invalid="ignore", over="ignore"):  # they have findings of their own
        return [*(text for check in CHECKS for text in check(data)), *_card(data, card)]


def _card(data: Dataset, card: dict[str, Any]) -> Iterator[str]:
    """Values against the card: which columns are swapped or changed, where the card tells."""
    if not card or data.content_sha256 in card["content_sha256"]:
        return
    known = {
        (name, c): x
        for name, column in card.get("columns", {}).items()
        for c, x in enumerate(column)
    }
    found = {
        (name, c): x
        for name, column in cardfile.column_sha256(data.arrays).items()
        for c, x in enumerate(column)
    }
    changed = [place for place, x in found.items() if place in known and known[place] != x]
    homes = {known[place]: place for place in changed}
    for place in changed:
        if (home := homes.get(found[place])) is not None:
            yield (
                f"card: swapped columns: /{place[0]} column {place[1]} holds what the card lists as"
                f" /{home[0]} column {home[1]}; put them back, or raise the dataset's version."
            )
            return
    why = cardfile.difference(card, data.recipe_sha256, data.spec, data.arrays)
    if why:
        what = "the values are"
        if changed:
            what = f"/{changed[0][0]} column {changed[0][1]} and {len(changed) - 1} more are"
        yield (
            f"card: {what} not those of the card, and {why}; make the dataset again, or raise its"
            " version."
        )


CHECKS: tuple[Callable[[Dataset], Iterator[str]], ...] = (
    linter_episodes.ends,
    boundaries,
    linter_values.numbers,
    linter_values.ranges,
    copied_finals,
    linter_episodes.returns,
    linter_episodes.duplicates,
    linter_values.still,
    linter_values.mortality,
    linter_values.activity,
    linter_values.population,
)
