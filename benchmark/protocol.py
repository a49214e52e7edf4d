"""How much is run: seeds, evaluation episodes, and the seed ranges that keep training, recipes,
tuning and evaluation apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmark.errors import unknown_name
from benchmark.task import TaskSpec

PROTOCOL_VERSION = 1

LONG = 500  # steps; tasks this long are evaluated on LONG_EPISODES at most
LONG_EPISODES = 100

RECIPE_SEEDS = range(1_000, 2_000)
TUNING_SEEDS = range(2_000, 3_000)
POPULATION_SEEDS = range(3_000, 4_000)  # of the population error of a policy table
RESPONSE_SEEDS = range(4_000, 10_000)  # of trained best responses
EVALUATION_SEEDS = range(10_000, 500_000)
REFERENCE_SEEDS = range(500_000, 1_000_000)
VERIFICATION_SEEDS = range(1_000_000, 1_000_000_000)  # drawn afresh by each verification


@dataclass(frozen=True)
class Protocol:
    """Gradient steps are not here: they belong to the algorithm's variant."""

    name: str
    n_seeds: int  # training seeds 0 .. n_seeds - 1
    episodes: int  # evaluation episodes, seeds 10,000 up
    group: int  # seeds trained together as one group

    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.n_seeds))

    def on(self, spec: TaskSpec) -> Protocol:
        """The same protocol as it is for one task: fewer episodes where they are long."""
        if spec.horizon < LONG:
            return self
        return replace(self, episodes=min(self.episodes, LONG_EPISODES))

    def evaluation_seeds(self) -> range:
        return EVALUATION_SEEDS[: self.episodes]


PROTOCOLS = {
    "smoke": Protocol("smoke", n_seeds=1, episodes=4, group=1),
    "quick": Protocol("quick", n_seeds=3, episodes=100, group=3),
    "full": Protocol("full", n_seeds=10, episodes=1_000, group=5),
}


def protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
