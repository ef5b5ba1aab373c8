"""What a user sees of an account that is parked: its status, and the state of the requests that wait."""

from dataclasses import replace

from infra.cache import Arrived
from schemas.ledger import AccountStatus, Parking
from schemas.results import encode_result
from tests.query.door import ReadDoor

FIGURES = ("/balance", "/portfolio", "/users/portfolio/summary")


async def shown(door: ReadDoor, history: object, status: AccountStatus, version: int) -> None:
    """The result of a parking or draining is projected: it has no figures of the account."""
    kind = "AccountParked" if status == "parked" else "DrainRequested"
    last = history.results[-1]  # type: ignore[attr-defined]
    lines = replace(last.lines, counters=type(last.lines.counters)(), cash={}, positions={}, order=None)
    result = replace(last, version=version, kind=kind, postings=(), lines=lines, parking=Parking(status, "decision"))
    await door.views.put([Arrived(result, encode_result(result))])


async def test_the_status_is_shown_with_the_figures(door: ReadDoor) -> None:
    """Parked from the result of the parking on, and active again; the figures stay, and the counts of the lists with them."""
    history = await door.shown("deposit", "deposit")
    before = (await door.get("/balance", history)).json()
    for version, status in ((3, "parked"), (4, "active")):
        await shown(door, history, status, version)  # type: ignore[arg-type]
        assert [(await door.get(path, history)).json()["status"] for path in FIGURES] == [status] * 3
        balance = (await door.get("/balance", history)).json()
        assert balance == before | {"version": version, "status": status, "as_of": before["as_of"] | {"version": version}}
        assert (await door.get("/balance/transactions", history)).json()["total_count"] == 2


async def test_the_loader_shows_it_too(door: ReadDoor) -> None:
    """A view that is loaded from the ledger has the status of the account."""
    history = door.user("deposit")
    history.accounts[-1] = replace(history.accounts[-1], status="parked")
    assert (await door.get("/balance", history)).json()["status"] == "parked"


async def test_a_request_that_waits_is_parked(door: ReadDoor) -> None:
    """Without an entry it is pending, or parked where it waits; once it has one that counts."""
    history = await door.shown("deposit")
    settled, unsent = history.entries[0].request_id, "0d0d0d0d-0000-5000-8000-000000000000"
    path = f"/commands/{door.command_id(history, unsent)}"
    assert (await door.get(path, history)).json()["state"] == "pending"
    door.reads.waiting |= {(history.username, unsent), (history.username, settled)}
    parked = await door.get(path, history)
    assert (parked.json()["state"], parked.headers["Retry-After"]) == ("parked", "1")
    assert (await door.get(f"/commands/{door.command_id(history, settled)}", history)).json()["state"] == "settled"
