"""Recipe of `mpe/spread`: the tiers of `mpe.py`."""

from benchmark.protocol import RECIPE_SEEDS
from datasets.recipes.mpe import Rolls

TASKS = r"mpe/spread"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "medium-replay", "expert", "mixed")

ROLLS = Rolls("mpe-spread", RECIPE_SEEDS[0], TIERS)
files, size, collect = ROLLS.files, ROLLS.size, ROLLS.collect
