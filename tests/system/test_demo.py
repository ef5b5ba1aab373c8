"""`cnop demo` against the running system."""

import json

from tests.system.running import System, cnop


async def test_the_demo_ends_as_planned(system: System) -> None:
    """Every request ends as its plan says, orders that wait, fill and are cancelled among them, and the books add up."""
    status, out, err = await cnop(system, "demo", "--users", "3", "--orders", "150", "--json")
    told = json.loads(out)
    assert status == 0, err
    assert (told["unexpected"], told["unanswered"], told["failed"], told["faults"]) == (0, 0, 0, [])
    assert told["orders_by_status"].keys() == {"completed", "open", "cancelled"}
    assert told["settled_by_kind"]["cancel"] > 0
