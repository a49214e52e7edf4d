"""Recipe of `mpe/tag-flee`: the tiers of `mpe.py`."""

from benchmark.protocol import RECIPE_SEEDS
from datasets.recipes.mpe import Rolls

TASKS = r"mpe/tag-flee"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "medium-replay", "expert", "mixed")

ROLLS = Rolls("mpe-tag-flee", RECIPE_SEEDS[10], TIERS)
files, size, collect = ROLLS.files, ROLLS.size, ROLLS.collect
