"""The ledger as settlement needs it: with accounts that are parked, and with the requests that wait in them.

Loading tells an item that nobody can read from a machine that does not answer. Parking touches three attributes of the account item and no
more, so an item that cannot be read keeps what it holds. The items of what waits have the record's place for a key: putting them again changes
nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, Protocol

from pydantic import TypeAdapter, ValidationError

from infra.dynamo import Item, from_attribute, from_item, query_pages, to_attribute, to_item
from infra.ledger import (
    ABSENT,
    ACTIONS_MAX,
    TRANSACTION_BYTES_MAX,
    Ledger,
    LedgerReads,
    LedgerStore,
    Outcome,
    Write,
    actions_of,
    version_is,
)
from infra.ledger_items import entry_item, item_key, read_account
from schemas.instants import EPOCH, parse_rfc3339, rfc3339
from schemas.ledger import Account, Entry, Parked, Waiting
from schemas.tables import ACCOUNT_SK, LEDGER, OFFSET_DIGITS, PARKED_PK, PARKED_PREFIX, account_pk, entry_sk, parked_sk

WAITING_WRITE_MAX: Final = (ACTIONS_MAX - 1) // 2
"""Waiting requests in one transaction: each takes its item and the look that it has no entry, beside the look at the account."""
LOOK_MAX: Final = 1_000
"""Waiting items of one account among which one request is looked for."""
REMOVE_MAX: Final = 1_000
"""Items that one call removes; more are left to the next."""
DELETES_MAX: Final = 25
"""Deletions in one call (DynamoDB's limit)."""
_OFFSET_LAST: Final = 10**OFFSET_DIGITS - 1
_HEADERS_BYTES: Final = 2_000


class HeadUnreadable(RuntimeError):
    """An account item lacks even the version or the parking facts that are needed to park it. Only a repair by hand helps."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An account whose item cannot be read: what is known of it all the same. `reason` names field and rule, and no value."""

    username: str
    version: int
    at: datetime
    parked: Parked | None
    reason: str


class ParkedReads(LedgerReads, Protocol):
    """What doors read."""

    async def waits(self, username: str, request_id: str) -> bool:
        """Whether a request without an entry waits in a parked account, as far as the first `LOOK_MAX` waiting ones tell."""
        ...


class ParkingStore(LedgerStore, Protocol):
    """What settlement needs. The writes are tried once and tell what came of it, as `LedgerStore.write` does."""

    async def load(self, usernames: Sequence[str]) -> dict[str, Account | Unreadable]:
        """All of the accounts, empty ones included, and of those that cannot be read what is known. HeadUnreadable."""
        ...

    async def park(self, username: str, loaded_version: int, parked: Parked, entry: Entry, *, listed_at: datetime | None) -> Outcome:
        """Make an account of that version parked, with this entry for its next version; nothing else of the item changes.

        `listed_at` puts it on the list of parked accounts with that time; None leaves the list as it is.
        """
        ...

    async def put_waiting(self, username: str, version: int, waiting: Sequence[Waiting]) -> Outcome:
        """Put requests (as many as `fitting` lets through) that wait, where the account is parked at that version and none of them has an entry."""
        ...

    async def waiting(self, username: str, partition: int, *, after: int, limit: int) -> list[Waiting]:
        """Waiting requests behind an offset, in the order of the log."""
        ...

    async def drain(self, write: Write, *, unparks: bool) -> Outcome:
        """Store a step of draining; `unparks` takes the account off the list of parked ones."""
        ...

    async def remove_waiting(self, username: str, partition: int, *, up_to: int) -> int:
        """Remove the items of requests up to that offset, at most `REMOVE_MAX`; how many there were. Repeating it is harmless."""
        ...

    async def parked_since(self, since: datetime) -> int:
        """How many of the accounts that are parked now were listed after a time."""
        ...


class ParkingLedger(Ledger):
    """The ledger in DynamoDB, with parked accounts. Implements `ParkingStore` and `ParkedReads`."""

    async def load(self, usernames: Sequence[str]) -> dict[str, Account | Unreadable]:
        """See `ParkingStore`."""
        found: dict[str, Account | Unreadable] = {username: Account(username) for username in usernames}
        for account in map(read_or_head, await self._get([item_key(username, ACCOUNT_SK) for username in usernames])):
            found[account.username] = account
        return found

    async def park(self, username: str, loaded_version: int, parked: Parked, entry: Entry, *, listed_at: datetime | None) -> Outcome:
        """See `ParkingStore`."""
        actions = [_parking(username, loaded_version, parked, entry.version), {"Put": {"TableName": LEDGER.name, "Item": entry_item(entry), **ABSENT}}]
        if listed_at:
            actions.append({"Put": {"TableName": LEDGER.name, "Item": {**_listed(username), "listed_at": {"S": rfc3339(listed_at)}}}})
        return await self._alone(actions)

    async def put_waiting(self, username: str, version: int, waiting: Sequence[Waiting]) -> Outcome:
        """See `ParkingStore`."""
        looks = [_is_parked(username, version)]
        looks += [{"ConditionCheck": {**_at(username, entry_sk(request_id)), **ABSENT}} for request_id in {one.request_id: None for one in waiting}]
        return await self._alone([*looks, *({"Put": {"TableName": LEDGER.name, "Item": waiting_item(username, one)}} for one in waiting)])

    async def waiting(self, username: str, partition: int, *, after: int, limit: int) -> list[Waiting]:
        """See `ParkingStore`."""
        found: list[Waiting] = []
        async for page in self._waiting_pages(username, parked_sk(partition, after + 1), parked_sk(partition, _OFFSET_LAST), limit=limit):
            found += map(read_waiting, page["Items"])
            if len(found) >= limit:
                break
        return found[:limit]

    async def drain(self, write: Write, *, unparks: bool) -> Outcome:
        """See `ParkingStore`."""
        unlisting = [{"Delete": {"TableName": LEDGER.name, "Key": _listed(write.account.username)}}] if unparks else []
        return await self._alone([*actions_of(write), *unlisting])

    async def remove_waiting(self, username: str, partition: int, *, up_to: int) -> int:
        """See `ParkingStore`."""
        keys: list[Item] = []
        keys_alone = {"ProjectionExpression": "pk, sk"}
        async for page in self._waiting_pages(username, parked_sk(partition, 0), parked_sk(partition, up_to), limit=REMOVE_MAX, **keys_alone):
            keys += page["Items"]
            if len(keys) >= REMOVE_MAX:
                break
        for start in range(0, len(keys), DELETES_MAX):
            deletes = [{"DeleteRequest": {"Key": key}} for key in keys[start : start + DELETES_MAX]]
            await self._dynamo.call("batch_write_item", RequestItems={LEDGER.name: deletes})
        return len(keys)

    async def parked_since(self, since: datetime) -> int:
        """See `ParkingStore`."""
        condition = {"FilterExpression": "listed_at > :since", "ExpressionAttributeValues": {":pk": {"S": PARKED_PK}, ":since": {"S": rfc3339(since)}}}
        return sum([page["Count"] async for page in self._pages(KeyConditionExpression="pk = :pk", Select="COUNT", **condition)])

    async def waits(self, username: str, request_id: str) -> bool:
        """See `ParkedReads`."""
        looked = 0
        filtered = {"FilterExpression": "request_id = :id", "values": {":id": {"S": request_id}}, "ProjectionExpression": "pk"}
        async for page in self._waiting_pages(username, PARKED_PREFIX, PARKED_PREFIX + "~", limit=LOOK_MAX, **filtered):
            looked += page["ScannedCount"]
            if page["Items"] or looked >= LOOK_MAX:
                return bool(page["Items"])
        return False

    async def parked_accounts(self) -> list[str]:
        """The usernames of all parked accounts, by name."""
        pages = self._pages(KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": PARKED_PK}})
        return [item["sk"]["S"] async for page in pages for item in page["Items"]]

    async def waiting_count(self, username: str, parked: Parked) -> int:
        """How many requests wait in a parked account."""
        between = parked_sk(parked.partition, parked.before + 1), parked_sk(parked.partition, _OFFSET_LAST)
        return sum([page["Count"] async for page in self._waiting_pages(username, *between, Select="COUNT")])

    async def _alone(self, actions: Sequence[dict[str, Any]]) -> Outcome:
        """One account's actions in a transaction of their own."""
        (outcome,) = await self._try(actions, [len(actions)])
        return outcome

    async def _waiting_pages(self, username: str, first: str, last: str, *, limit: int | None = None, values: Any = None, **more: Any) -> Any:
        bounds: Item = {":pk": {"S": account_pk(username)}, ":first": {"S": first}, ":last": {"S": last}, **(values or {})}
        condition = "pk = :pk AND sk BETWEEN :first AND :last"
        async for page in self._pages(KeyConditionExpression=condition, ExpressionAttributeValues=bounds, page_max=limit, **more):
            yield page

    def _pages(self, **query: Any) -> Any:
        return query_pages(self._dynamo, TableName=LEDGER.name, **query)


def fitting(waiting: Iterable[Waiting]) -> list[Waiting]:
    """As many of them, from the first on, as one transaction takes; at least one."""
    taken: list[Waiting] = []
    size = 0
    for one in waiting:
        size += len(one.value.encode()) + _HEADERS_BYTES
        if taken and (len(taken) == WAITING_WRITE_MAX or size > TRANSACTION_BYTES_MAX):
            break
        taken.append(one)
    return taken


def read_or_head(item: Item) -> Account | Unreadable:
    """An account from its item, or what can be told of one that cannot be read. HeadUnreadable where that is too little."""
    try:
        account = read_account(item)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the item, it is this account's alone
        return _head(item, _told(error))
    return account if account_pk(account.username) == item["pk"]["S"] else _head(item, "/username: another account's")


def waiting_item(username: str, waiting: Waiting) -> Item:
    """A waiting request as its item."""
    return {**item_key(username, parked_sk(waiting.partition, waiting.offset)), **to_item(waiting)}


def read_waiting(item: Item) -> Waiting:
    """A waiting request from its item. One that cannot be read comes as a request of no type: draining stops before it, and nothing else does."""
    try:
        return _waiting().validate_python(from_item(item))
    except Exception:  # noqa: BLE001 - as above
        partition, offset = map(int, item["sk"]["S"].removeprefix(PARKED_PREFIX).split("#"))
        return Waiting(partition, offset, EPOCH, request_id="", type="", value="", correlation_id="", trace_id="")


def _head(item: Item, reason: str) -> Unreadable:
    username = item["pk"]["S"].removeprefix(account_pk(""))
    try:
        version = int(item["version"]["N"])
        is_parked = item.get("status") == {"S": "parked"}
        parked = _parked().validate_python(from_attribute(item["parked"])) if is_parked else None
    except Exception:  # noqa: BLE001 - as above
        raise HeadUnreadable(f"the account item of {username} can neither be read nor parked: {reason}") from None
    return Unreadable(username, version, _time(item), parked, reason)


def _time(item: Item) -> datetime:
    try:
        return parse_rfc3339(item["at"]["S"])
    except (KeyError, TypeError, ValueError):
        return EPOCH


def _told(error: Exception) -> str:
    """What is wrong, without the value that is: a log may have it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        return f"/{'/'.join(str(part) for part in first['loc'])}: {first['type']}"
    return type(error).__name__


def _at(username: str, sk: str) -> dict[str, Any]:
    return {"TableName": LEDGER.name, "Key": item_key(username, sk)}


def _listed(username: str) -> Item:
    return {"pk": {"S": PARKED_PK}, "sk": {"S": username}}


def _parking(username: str, loaded_version: int, parked: Parked, version: int) -> dict[str, Any]:
    """The update of the account item. One that was not there yet gets the name that makes it an account."""
    condition = version_is(loaded_version)
    names = {"#status": "status", "#version": "version", "#parked": "parked", **({"#username": "username"} if loaded_version == 0 else {})}
    values = {":status": {"S": "parked"}, ":version": {"N": str(version)}, ":parked": to_attribute(parked)}
    if loaded_version == 0:
        values[":username"] = {"S": username}
    sets = ", ".join(f"{name} = :{name.removeprefix('#')}" for name in names)
    return {
        "Update": {
            **_at(username, ACCOUNT_SK),
            "UpdateExpression": f"SET {sets}",
            "ConditionExpression": condition["ConditionExpression"],
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {**values, **condition.get("ExpressionAttributeValues", {})},
        }
    }


def _is_parked(username: str, version: int) -> dict[str, Any]:
    return {
        "ConditionCheck": {
            **_at(username, ACCOUNT_SK),
            "ConditionExpression": "#status = :status AND #version = :version",
            "ExpressionAttributeNames": {"#status": "status", "#version": "version"},
            "ExpressionAttributeValues": {":status": {"S": "parked"}, ":version": {"N": str(version)}},
        }
    }


@cache
def _parked() -> TypeAdapter[Parked]:
    return TypeAdapter(Parked)


@cache
def _waiting() -> TypeAdapter[Waiting]:
    return TypeAdapter(Waiting)
