"""The ledger in memory, and the faults that no emulator produces.

`MemoryLedger` keeps items, not objects: what is read back went through the real codec, and numbers come back in DynamoDB's own spelling.
`FaultyDynamo` stands before a real client and lets calls fail before or after they happened.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Literal

from botocore.exceptions import ClientError

from infra.dynamo import Attribute, Dynamo, DynamoUnavailable, Item
from infra.ledger import ACTIONS_MAX, NEIGHBOUR, Failed, Named, Outcome, Refused, Stored, Unknown, Write, named_items
from infra.ledger_items import account_item, day_item, entry_item, order_item, read_account, read_entry, read_order
from schemas.ledger import Account, Entry, Order
from schemas.tables import ACCOUNT_SK, DAY_PREFIX, ENTRIES_BY_ASSET, ENTRIES_BY_VERSION, ORDERS_BY_VERSION, Index, day_sk, entry_sk, order_sk
from tests.fakes.parked import MemoryParking, orders_in_the_way, too_large

NUMBER_DIGITS_MAX = 38

Fault = Literal["none", "conflict", "throttled", "lost-before", "lost-after", "late"]
"""What befalls a transaction: refused for the moment, or without an answer: never arrived, arrived, or arrives when nobody waits any more."""
ReadFault = Literal["none", "lost-before"]


async def _at_once(_: str) -> None:
    """No other task runs meanwhile."""


def _never(_: str) -> Fault:
    return "none"


class MemoryLedger(MemoryParking):
    """Implements `ParkingStore`.

    `step(name)` is awaited wherever the real one waits; `fault(operation)` says what befalls a call; `stored(write)` is told of each write
    at the moment at which it happens.
    """

    def __init__(
        self,
        *,
        step: Callable[[str], Awaitable[None]] = _at_once,
        fault: Callable[[str], Fault] = _never,
        stored: Callable[[Write], None] = lambda _: None,
    ) -> None:
        self.step = step
        self.fault = fault
        self.stored = stored
        self.late: list[list[Write] | Callable[[], object]] = []
        self._items: dict[str, dict[str, Item]] = {}

    async def account(self, username: str) -> Account:
        await self._read("accounts")
        return self.account_now(username)

    async def entry(self, username: str, request_id: str) -> Entry | None:
        await self._read("entry")
        item = self._of(username).get(entry_sk(request_id))
        return read_entry(item) if item else None

    async def order(self, username: str, order_id: str) -> Order | None:
        await self._read("order")
        item = self._of(username).get(order_sk(order_id))
        return read_order(item) if item else None

    async def named(self, wanted: Mapping[str, Collection[str]]) -> dict[str, Named]:
        await self._read("named")
        found = {username: [self._of(username)[sk] for sk in sks if sk in self._of(username)] for username, sks in wanted.items()}
        return {username: named_items(items) for username, items in found.items()}

    async def entries(self, username: str, *, before: int | None, limit: int) -> list[Entry]:
        await self._read("entries")
        items = self._newest(username, ENTRIES_BY_VERSION)
        older = (item for item in items if before is None or int(item[ENTRIES_BY_VERSION.sort_key]["N"]) < before)
        return [read_entry(item) for item in islice(older, limit)]

    async def asset_entries(self, username: str, asset_id: str, *, before: int | None, limit: int) -> list[Entry]:
        await self._read("asset_entries")
        items = [item for item in self._newest(username, ENTRIES_BY_ASSET) if item[ENTRIES_BY_ASSET.sort_key]["S"].startswith(f"{asset_id}#")]
        return list(islice((entry for entry in map(read_entry, items) if before is None or entry.version < before), limit))

    async def orders(self, username: str, *, before: int | None, limit: int) -> list[Order]:
        await self._read("orders")
        items = self._newest(username, ORDERS_BY_VERSION)
        older = (item for item in items if before is None or int(item[ORDERS_BY_VERSION.sort_key]["N"]) < before)
        return [read_order(item) for item in islice(older, limit)]

    async def days(self, username: str, first: str, last: str, *, limit: int) -> list[Account]:
        await self._read("days")
        kept = sorted((sk, item) for sk, item in self._of(username).items() if sk.startswith(DAY_PREFIX))
        before = [item for sk, item in kept if sk < day_sk(first)][-1:]
        inside = [item for sk, item in kept if day_sk(first) <= sk <= day_sk(last)][:limit]
        return [read_account(item) for item in (*before, *inside)]

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        return [outcome for pack in _packs(writes) for outcome in await self._transact(pack)]

    def land(self, index: int) -> None:
        """A transaction that nobody waits for any more arrives."""
        arrived = self.late.pop(index)
        if isinstance(arrived, list):
            self.apply(arrived)
        else:
            arrived()

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        """One transaction, all or nothing, without a wait or a fault."""
        items = [{(item["pk"]["S"], item["sk"]["S"]): item for item in _items(write)} for write in writes]
        if sum(map(len, items)) != sum(write.actions for write in writes) or len({key for part in items for key in part}) != sum(map(len, items)):
            raise invalid("TransactWriteItems", "Transaction request cannot include multiple operations on one item")
        if any(map(too_large, (part.values() for part in items))):
            return [outcome for write in writes for outcome in self.apply([write])] if len(writes) > 1 else [Failed("Item size has exceeded the maximum")]
        told = [self.refusal(write) for write in writes]
        if any(told):
            return [refused or Unknown(NEIGHBOUR) for refused in told]
        for write, part in zip(writes, items, strict=True):
            for (pk, sk), item in part.items():
                self._items.setdefault(pk, {})[sk] = as_stored(item)
            self.stored(write)
        return [Stored()] * len(writes)

    def refusal(self, write: Write) -> Refused | None:
        """What stands in the way of a write, if anything does."""
        items = self._of(write.account.username)
        entries = [read_entry(items[sk]) for sk in (entry_sk(entry.request_id) for entry in write.entries) if sk in items]
        orders = list(orders_in_the_way(write, items))
        moved = int(items.get(ACCOUNT_SK, {}).get("version", {"N": "0"})["N"]) != write.loaded_version
        if not (entries or orders or moved):
            return None
        return Refused(moved, {entry.request_id: entry for entry in entries}, {order.order_id: order for order in orders})

    def account_now(self, username: str) -> Account:
        """The account, for an onlooker who does not wait."""
        item = self._of(username).get(ACCOUNT_SK)
        return read_account(item) if item else Account(username)

    def entries_now(self, username: str) -> list[Entry]:
        """All entries of an account by version, refusals among them, for an onlooker who does not wait."""
        found = [read_entry(item) for sk, item in self._of(username).items() if sk.startswith("ENTRY#")]
        return sorted(found, key=lambda entry: entry.version)

    def items_now(self, username: str) -> dict[str, Item]:
        """All items of an account by sort key, for an onlooker who does not wait."""
        return dict(self._of(username))

    async def _transact(self, pack: list[Write]) -> list[Outcome]:
        await self.step("write")
        match self.fault("write"):
            case "none":
                told = self.apply(pack)
                await self.step("written")
                return told
            case "conflict":
                return [Unknown("TransactionConflict"), *[Unknown(NEIGHBOUR)] * (len(pack) - 1)]
            case "throttled":
                return [*[Unknown(NEIGHBOUR)] * (len(pack) - 1), Unknown("ThrottlingError")]
            case "lost-after":
                self.apply(pack)
            case "late":
                self.late.append(pack)
            case _:
                pass
        await self.step("lost")
        return [Unknown("transact_write_items: ReadTimeoutError")] * len(pack)

    async def _read(self, operation: str) -> None:
        await self.step(operation)
        if self.fault(operation) != "none":
            raise DynamoUnavailable(f"{operation}: ReadTimeoutError")

    def _of(self, username: str) -> dict[str, Item]:
        return self._items.get(f"ACCT#{username}", {})

    def _newest(self, username: str, index: Index) -> list[Item]:
        found = [item for item in self._of(username).values() if index.sort_key in item]
        return sorted(found, key=lambda item: _sortable(item[index.sort_key]), reverse=True)


def _packs(writes: Sequence[Write]) -> Iterator[list[Write]]:
    pack: list[Write] = []
    for write in writes:
        if pack and sum(one.actions for one in pack) + write.actions > ACTIONS_MAX:
            yield pack
            pack = []
        pack.append(write)
    if pack:
        yield pack


def _items(write: Write) -> Iterator[Item]:
    yield account_item(write.account)
    yield from map(entry_item, write.entries)
    for order in write.orders:
        yield order_item(write.account.username, order)
    yield from map(day_item, write.days)


def as_stored(item: Item) -> Item:
    """An item as the engine gives it back."""
    return {name: _attribute(item[name]) for name in sorted(item)}  # maps come back in an order of the engine's own


def _attribute(attribute: Attribute) -> Attribute:
    """DynamoDB trims zeros at both ends of a Number, and refuses one of more than 38 digits."""
    ((kind, value),) = attribute.items()
    match kind:
        case "N":
            number = Decimal(value)
            if len(number.as_tuple().digits) > NUMBER_DIGITS_MAX:
                raise invalid("TransactWriteItems", "Attempting to store more than 38 significant digits in a Number")
            text = f"{number:f}"
            return {"N": "0" if not number else text.rstrip("0").rstrip(".") if "." in text else text}
        case "M":
            return {"M": as_stored(value)}
        case "L":
            return {"L": [_attribute(part) for part in value]}
        case _:
            return attribute


def _sortable(attribute: Attribute) -> Decimal | str:
    return Decimal(attribute["N"]) if "N" in attribute else str(attribute["S"])


def invalid(operation: str, message: str) -> ClientError:
    """A request that DynamoDB does not take: a bug of the caller's."""
    return ClientError({"Error": {"Code": "ValidationException", "Message": message}, "ResponseMetadata": {"HTTPStatusCode": 400}}, operation)


class FaultyDynamo:
    """Stands before a real `Dynamo`: each call takes the next fault of the script that names its operation, and none when there is no more.

    `("transact_write_items", "before")` fails before the call, `"after"` when it has happened, and any other word is the cancellation reason
    of the first action, as DynamoDB tells it.
    """

    def __init__(self, dynamo: Dynamo, script: Iterable[tuple[str, str]]) -> None:
        self._dynamo = dynamo
        self.script = list(script)

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        fault = next((fault for fault in self.script if fault[0] == operation), None)
        if fault is None:
            return await self._dynamo.call(operation, **arguments)
        self.script.remove(fault)
        match fault[1]:
            case "before":
                pass
            case "after":
                await self._dynamo.call(operation, **arguments)
            case reason:
                raise cancelled([reason, *["None"] * (len(arguments["TransactItems"]) - 1)])
        raise DynamoUnavailable(f"{operation}: ReadTimeoutError")


def cancelled(codes: Sequence[str]) -> ClientError:
    """The answer to a cancelled transaction, with a reason for each of its actions."""
    return ClientError(
        {
            "Error": {"Code": "TransactionCanceledException", "Message": "Transaction cancelled"},
            "ResponseMetadata": {"HTTPStatusCode": 400},
            "CancellationReasons": [{"Code": code} for code in codes],
        },  # type: ignore[typeddict-unknown-key] # botocore passes on what the answer holds
        "TransactWriteItems",
    )
