"""Recipe of `mpe-omar/spread`: the tiers of `mpe.py`.

The expert is the checkpoint whose return is nearest to that of the published expert. The published
files hold 40,000 episodes a tier, these 10,000 (medium-replay: 4,000).
"""

from benchmark.protocol import RECIPE_SEEDS
from datasets.recipes.mpe import Rolls

TASKS = r"mpe-omar/spread"
TASK_VERSION = 1
VERSION = 1
TIERS = ("random", "medium", "medium-replay", "expert", "mixed")

ROLLS = Rolls("mpe-omar-spread", RECIPE_SEEDS[30], TIERS)
files, size, collect = ROLLS.files, ROLLS.size, ROLLS.collect
