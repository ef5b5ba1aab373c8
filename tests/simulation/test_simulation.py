"""Settlement under crashes, duplicates, takeovers, zombies and a store that answers late or not at all.

`CNOP_SIM_SEEDS` plays more seeds than the usual ones; a failure names its seed, and the seed tells the whole run.
"""

import logging
import os
from collections.abc import Callable, Iterator

import pytest
import structlog

from tests.simulation.mutants import variants
from tests.simulation.world import REQUESTS, USERS, Variant, World

SEEDS = int(os.environ.get("CNOP_SIM_SEEDS", "400"))
SEEDS_TOGETHER = 50
MUTANT_SEEDS_MAX = 150
"""A mutant that is not seen in so many runs would not be seen in production's either."""


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


def play(seed: int, variant: Variant | None = None) -> World:
    """One run; what is raised names its seed."""
    world = World(seed, variant or Variant())
    try:
        world.play()
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_TOGETHER), ids=lambda first: f"seeds-from-{first}")
def test_every_guarantee_holds(first: int) -> None:
    """Whatever fails, each acknowledged request changes money once, its result is told once and in order, and it ends as if nothing had failed."""
    for seed in range(first, min(first + SEEDS_TOGETHER, SEEDS)):
        play(seed)


@pytest.mark.parametrize("make", variants(), ids=lambda make: make.__name__.replace(" ", "-"))
def test_a_mutant_is_caught(make: Callable[[], Variant]) -> None:
    """With this one thing wrong, some run tells."""
    variant = make()
    assert any(_caught(seed, variant) for seed in range(MUTANT_SEEDS_MAX)), f"{variant.name}: not seen in {MUTANT_SEEDS_MAX} runs"


def test_a_run_is_told_by_its_seed() -> None:
    """The same seed plays the same run; another plays another."""
    once, again, other = (_entries(play(seed)) for seed in (5, 5, 6))
    assert once == again != other


def test_runs_are_not_idle() -> None:
    """Over some seeds there are takeovers, and most of what was asked settles: the simulation tests something."""
    worlds = [play(seed) for seed in range(20)]
    entries = [entry for world in worlds for entry in _entries(world)]
    assert len(entries) > 20 * REQUESTS * 0.6
    assert sum(entry[2] is None for entry in entries) > len(entries) * 0.3
    assert sum(world.processes for world in worlds) > 20 * 4


def _caught(seed: int, variant: Variant) -> bool:
    try:
        World(seed, variant).play()
    except Exception:  # noqa: BLE001 - whatever shows
        return True
    return False


def _entries(world: World) -> list[tuple[str, int, str | None]]:
    rows = [entry for username in USERS for entry in world.ledger.entries_now(username)]
    return [(entry.request_id, entry.version, entry.refusal.code if entry.refusal else None) for entry in rows]
