"""How fresh an answer is, and that it says so: lag, account version and time, ETags."""

import pytest

from infra.position import POSITION, Position
from schemas.instants import rfc3339
from tests.query.door import ReadDoor

PARTITIONS = range(4)
OF_ACCOUNT = (
    "/balance",
    "/balance/transactions",
    "/balance/asset/ETH",
    "/assets/ETH/balance",
    "/assets/balances",
    "/assets/ETH/transactions",
    "/portfolio",
    "/portfolio/history",
    "/users/portfolio/summary",
    "/insights/portfolio",
    "/orders",
)


async def tell(door: ReadDoor, behind: int = 0, silent_s: float = 0.0) -> Position:
    """The projector says how far it is behind in each partition, by what it heard of the log some time ago."""

    def places() -> dict[int, tuple[int, int, int]]:
        return dict.fromkeys(PARTITIONS, (100, 100 + behind, now_ms(door) - round(silent_s * 1000)))

    position = Position(door.cache, places, lambda: len(PARTITIONS))
    await position.tell()
    return position


def now_ms(door: ReadDoor) -> int:
    return round(door.clock.now().timestamp() * 1000)


async def lag(door: ReadDoor) -> str | None:
    """What the door says of an account whose view is there."""
    return (await door.get("/balance", await door.shown("deposit"))).headers.get("Projection-Lag-Ms")


@pytest.mark.parametrize("path", OF_ACCOUNT)
async def test_every_answer_about_an_account_says_what_it_shows(door: ReadDoor, path: str) -> None:
    """Version and time of the account in the body, the version's token and the lag in headers, and a tag that only this caller's client may use."""
    history = await door.shown("deposit", "deposit", "buy", "buy")
    await tell(door)
    answer = await door.get(path, history, at_least=2)
    assert answer.json()["as_of"] == {"version": 4, "at": rfc3339(history.accounts[-1].at)}
    assert answer.headers["Consistency-Token"].startswith("v1.4.")
    assert answer.headers["Consistency-Satisfied"] == "true"
    assert answer.headers["Projection-Lag-Ms"] == "0"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["ETag"].startswith('"')


@pytest.mark.parametrize("path", ["/balance", "/orders"])
async def test_a_token_is_met_while_redis_is_full(door: ReadDoor, path: str) -> None:
    """Results cannot be put then; a view that is loaded takes the place of the one that is behind."""
    history = await door.shown("deposit", "buy")
    history.grow(("deposit", "buy"))
    await door.cache.client.config_set("maxmemory-policy", "noeviction")
    await door.cache.client.config_set("maxmemory", 1)
    try:
        answer = await door.get(path, history, at_least=4)
        assert (answer.status_code, answer.json()["as_of"]["version"]) == (200, 4)
        assert answer.headers["Consistency-Satisfied"] == "true"
    finally:
        await door.cache.client.config_set("maxmemory", 0)
        await door.cache.client.config_set("maxmemory-policy", "volatile-lru")


async def test_nothing_is_said_of_a_lag_that_nobody_knows(door: ReadDoor) -> None:
    """Before the projector has told anything."""
    assert await lag(door) is None


async def test_the_lag_is_none_at_the_end_of_the_log(door: ReadDoor) -> None:
    """However long ago the last result came, on a topic without news nothing waits."""
    await tell(door)
    door.clock.advance(0.9)
    assert await lag(door) == "0"


async def test_the_lag_is_the_time_since_the_projector_was_at_the_end(door: ReadDoor) -> None:
    """While results wait it grows, and it is over when they are shown. A projector that starts anew does not forget since when."""
    await tell(door)
    door.clock.advance(3)
    await tell(door, behind=17)
    door.clock.advance(0.5)
    assert await lag(door) == "3500"
    restarted = await tell(door, behind=5)
    door.clock.advance(1)
    await restarted.tell()
    assert await lag(door) == "4500"
    await tell(door)
    assert await lag(door) == "0"


async def test_with_results_always_under_way_the_lag_is_that_of_the_oldest(door: ReadDoor) -> None:
    """The projector never stands at the end of the log, and shows each result half a second after it came: that is the lag, however long it goes on."""
    places = (100, 101)
    position = Position(door.cache, lambda: dict.fromkeys(PARTITIONS, (*places, now_ms(door))), lambda: len(PARTITIONS))
    for _ in range(40):
        await position.tell()
        door.clock.advance(0.5)
        places = (places[0] + 1, places[1] + 1)
    await position.tell()
    assert await lag(door) == "500"


async def test_another_partitions_lag_is_nobodys(door: ReadDoor) -> None:
    """Of an account whose partition nobody has told of, nothing is said."""
    await Position(door.cache, dict, lambda: 4).tell()
    assert await lag(door) is None
    told = {str(partition): "0 0 0" for partition in range(4)} | {"partitions": "1000000"}
    await door.cache.client.hset(POSITION, mapping=told)
    assert await lag(door) is None


async def test_a_silent_projector_may_be_behind(door: ReadDoor) -> None:
    """Nobody knows what came since it was heard: the time since then is the lag."""
    await tell(door)
    door.clock.advance(7)
    assert await lag(door) == "7000"


async def test_a_projector_that_hears_nothing_of_the_log_may_be_behind(door: ReadDoor) -> None:
    """It was at the end and cannot reach the broker: what it says itself, again and again, is as old as what it heard last."""
    await tell(door, silent_s=6)
    assert await lag(door) == "6000"


async def test_since_when_a_new_projector_is_behind_nobody_knows(door: ReadDoor) -> None:
    """Nothing is said before it has passed the end that it found: what waited may have waited for days."""
    places = (100, 120)
    position = Position(door.cache, lambda: dict.fromkeys(PARTITIONS, (*places, now_ms(door))), lambda: len(PARTITIONS))
    await position.tell()
    door.clock.advance(0.5)
    places = (110, 121)
    await position.tell()
    assert await lag(door) is None
    door.clock.advance(0.5)
    places = (120, 122)
    await position.tell()
    assert await lag(door) == "1000"


async def test_what_the_ledger_says_has_no_lag(door: ReadDoor) -> None:
    """An answer that was loaded shows everything, however far the projector is behind."""
    await tell(door, behind=17)
    door.clock.advance(5)
    answer = await door.get("/balance", door.user("deposit"))
    assert answer.headers["Projection-Lag-Ms"] == "0"


async def test_the_position_has_no_lifetime(door: ReadDoor) -> None:
    """The eviction policy takes only keys that have one."""
    await tell(door)
    assert await door.cache.client.ttl(POSITION) == -1


async def test_a_body_that_the_caller_has_is_not_sent_again(door: ReadDoor) -> None:
    """304 without a body, with all that says how fresh it is; a changed account has another tag."""
    history = await door.shown("deposit", "deposit")
    history.grow(["deposit"])
    await tell(door)
    first = await door.get("/balance", history)
    headers = door.headers(history) | {"If-None-Match": f'"other", {first.headers["ETag"]}'}
    again = await door.client.get("/balance", headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    assert {name: again.headers[name] for name in ("ETag", "Consistency-Token", "Projection-Lag-Ms", "Cache-Control")} == {
        name: first.headers[name] for name in ("ETag", "Consistency-Token", "Projection-Lag-Ms", "Cache-Control")
    }
    await door.project(history, 3)
    changed = await door.client.get("/balance", headers=headers)
    assert (changed.status_code, changed.json()["as_of"]["version"]) == (200, 3)
    assert changed.headers["ETag"] != first.headers["ETag"]


async def test_the_lag_is_not_in_the_tag(door: ReadDoor) -> None:
    """The same body has the same tag, however far behind it may be."""
    history = await door.shown("deposit")
    await tell(door)
    tags = {(await door.get("/balance", history)).headers["ETag"]}
    await tell(door, behind=3)
    door.clock.advance(2)
    answer = await door.get("/balance", history)
    assert answer.headers["Projection-Lag-Ms"] == "2000"
    assert tags == {answer.headers["ETag"]}
