"""Damaged records and checkpoints: nothing but a UserError, and never another content."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from benchmark import checkpoint, record
from benchmark.errors import UserError
from tests.records import record as made_record
from tests.test_fuzz import mutant
from tests.test_runner import same


def refused(error: UserError) -> str:
    return "refused at length" if "\n" in str(error) else "refused"


class Records:
    """Mutants of a record's text."""

    name = "records"

    def __init__(self, folder: Path) -> None:
        self.whole = made_record()
        self.content = record.to_json(self.whole).encode()
        self.path = folder / "record.json"
        self.counts = Counter[str]()

    def load(self, number: int) -> str:
        """What comes of a mutant: refused, same or other. A record keeps no hash of itself: a digit
        that became another digit is another valid record.
        """
        self.path.write_bytes(mutant(self.content, number))
        try:
            found = record.read(self.path)
        except UserError as error:
            outcome = refused(error)
        else:
            outcome = "same" if found == self.whole else "other"
            text = record.to_json(found)  # accepted again, with equal bytes
            assert record.to_json(record.parse(text)) == text, f"mutant {number}"
        self.counts[outcome] += 1
        return outcome


class Checkpoints:
    """Mutants of a checkpoint."""

    name = "checkpoints"

    def __init__(self, folder: Path) -> None:
        generator = torch.Generator().manual_seed(0)
        self.whole = {
            "group": {f"w{i}": torch.randn(8, 5, generator=generator) for i in range(6)},
            "rngs": [{"state": {"state": 2**100, "inc": 3}}, None],
            "step": 17,
            "scalar": torch.tensor(3),
            "flags": torch.tensor([True, False]),
        }
        self.path = folder / "checkpoint.safetensors"
        checkpoint.save(self.path, self.whole)
        self.content = self.path.read_bytes()
        self.counts = Counter[str]()

    def load(self, number: int) -> str:
        """What comes of a mutant: refused, same or other."""
        self.path.write_bytes(mutant(self.content, number))
        try:
            outcome = "other" if same(self.whole, checkpoint.load(self.path)) else "same"
        except UserError as error:
            outcome = refused(error)
        self.counts[outcome] += 1
        return outcome
