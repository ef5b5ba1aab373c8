"""The parked part of the ledger in memory: what `infra.parked.ParkingLedger` adds, on the same items and with the same faults."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from infra.dynamo import DynamoUnavailable, Item, to_attribute
from infra.ledger import Failed, Outcome, Refused, Stored, Unknown, Write
from infra.ledger_items import account_item, day_item, entry_item, order_item, read_entry, read_order
from infra.parked import REMOVE_MAX, Unreadable, read_or_head, read_waiting, waiting_item
from schemas.instants import rfc3339
from schemas.ledger import Account, Entry, Order, Parked, Waiting
from schemas.tables import ACCOUNT_SK, OFFSET_DIGITS, PARKED_PK, PARKED_PREFIX, account_pk, entry_sk, order_sk, parked_sk

if TYPE_CHECKING:
    from tests.fakes.ledger import Fault

ITEM_BYTES_MAX = 400 * 1024


def orders_in_the_way(write: Write, items: Mapping[str, Item]) -> Iterator[Order]:
    """Orders that are there where a write has new ones, and those that have changed since it read them."""
    for order in write.orders:
        item = items.get(order_sk(order.order_id))
        if item and int(item["updated_version"]["N"]) != write.replaces.get(order.order_id):
            yield read_order(item)


class MemoryParking:
    """Implements what `ParkingStore` has beyond `LedgerStore`, for `tests.fakes.ledger.MemoryLedger`."""

    step: Callable[[str], Awaitable[None]]
    fault: "Callable[[str], Fault]"
    stored: Callable[[Write], None]
    late: list[Any]
    _items: dict[str, dict[str, Item]]

    async def load(self, usernames: Sequence[str]) -> dict[str, Account | Unreadable]:
        await self._asked("accounts")
        items = {username: self._items.get(account_pk(username), {}).get(ACCOUNT_SK) for username in usernames}
        return {username: read_or_head(item) if item else Account(username) for username, item in items.items()}

    async def park(self, username: str, loaded_version: int, parked: Parked, entry: Entry, *, listed_at: datetime | None) -> Outcome:
        def happen() -> Outcome:
            if refused := self._refused(username, loaded_version, [entry.request_id]):
                return refused
            item = dict(self._items.get(account_pk(username), {}).get(ACCOUNT_SK) or {"pk": {"S": account_pk(username)}, "sk": {"S": ACCOUNT_SK}})
            facts = {"status": {"S": "parked"}, "version": {"N": str(entry.version)}, "parked": to_attribute(parked)}
            self._put({**item, **facts, **({} if loaded_version else {"username": {"S": username}})}, entry_item(entry))
            if listed_at:
                self._put({"pk": {"S": PARKED_PK}, "sk": {"S": username}, "listed_at": {"S": rfc3339(listed_at)}})
            after = read_or_head(self._items[account_pk(username)][ACCOUNT_SK])
            if isinstance(after, Account):
                self.stored(Write(loaded_version, after, (entry,)))
            return Stored()

        return await self._once(happen)

    async def put_waiting(self, username: str, version: int, waiting: Sequence[Waiting]) -> Outcome:
        def happen() -> Outcome:
            item = self._items.get(account_pk(username), {}).get(ACCOUNT_SK, {})
            is_parked = item.get("status") == {"S": "parked"}
            if refused := self._refused(username, version if is_parked else -1, [one.request_id for one in waiting]):
                return refused
            self._put(*(waiting_item(username, one) for one in waiting))
            return Stored()

        return await self._once(happen)

    async def waiting(self, username: str, partition: int, *, after: int, limit: int) -> list[Waiting]:
        await self._asked("waiting")
        last = parked_sk(partition, 10**OFFSET_DIGITS - 1)
        return [read_waiting(item) for sk, item in self._waiting_now(username) if parked_sk(partition, after + 1) <= sk <= last][:limit]

    async def drain(self, write: Write, *, unparks: bool) -> Outcome:
        username = write.account.username

        def happen() -> Outcome:
            if refused := self._refused(username, write.loaded_version, [entry.request_id for entry in write.entries], write):
                return refused
            items = [account_item(write.account), *map(entry_item, write.entries), *(order_item(username, order) for order in write.orders)]
            items += map(day_item, write.days)
            if too_large(items):
                return Failed("Item size has exceeded the maximum allowed size")
            self._put(*items)
            if unparks:
                self._items.get(PARKED_PK, {}).pop(username, None)
            self.stored(write)
            return Stored()

        return await self._once(happen)

    async def remove_waiting(self, username: str, partition: int, *, up_to: int) -> int:
        await self._asked("remove")
        gone = [sk for sk, _ in self._waiting_now(username) if parked_sk(partition, 0) <= sk <= parked_sk(partition, up_to)][:REMOVE_MAX]
        for sk in gone:
            del self._items[account_pk(username)][sk]
        return len(gone)

    async def parked_since(self, since: datetime) -> int:
        await self._asked("parked")
        return sum(item["listed_at"]["S"] > rfc3339(since) for item in self._items.get(PARKED_PK, {}).values())

    async def waits(self, username: str, request_id: str) -> bool:
        await self._asked("waits")
        return any(item["request_id"]["S"] == request_id for _, item in self._waiting_now(username))

    def waiting_now(self, username: str) -> list[Waiting]:
        """What waits or is left over, for an onlooker who does not wait."""
        return [read_waiting(item) for _, item in self._waiting_now(username)]

    def parked_now(self) -> list[str]:
        """Who is on the list of parked accounts."""
        return sorted(self._items.get(PARKED_PK, {}))

    def damage(self, username: str, attributes: Item, sk: str = ACCOUNT_SK) -> dict[str, Any]:
        """Write attributes of an account's item over, or of another one of that account, as somebody's hand would; what they were."""
        item = self._items[account_pk(username)][sk]
        before = {name: item.get(name) for name in attributes}
        item.update({name: value for name, value in attributes.items() if value is not None})
        return before

    async def _once(self, happen: Callable[[], Outcome]) -> Outcome:
        """One transaction, with what befalls it."""
        await self.step("write")
        match self.fault("write"):
            case "none":
                told = happen()
                await self.step("written")
                return told
            case "conflict":
                return Unknown("TransactionConflict")
            case "throttled":
                return Unknown("ThrottlingError")
            case "lost-after":
                happen()
            case "late":
                self.late.append(happen)
            case _:
                pass
        await self.step("lost")
        return Unknown("transact_write_items: ReadTimeoutError")

    async def _asked(self, operation: str) -> None:
        await self.step(operation)
        if self.fault(operation) != "none":
            raise DynamoUnavailable(f"{operation}: ReadTimeoutError")

    def _refused(self, username: str, version: int, request_ids: Sequence[str], write: Write | None = None) -> Refused | None:
        items = self._items.get(account_pk(username), {})
        moved = int(items.get(ACCOUNT_SK, {}).get("version", {"N": "0"})["N"]) != version
        entries = {id_: read_entry(items[entry_sk(id_)]) for id_ in request_ids if entry_sk(id_) in items}
        orders = {order.order_id: order for order in orders_in_the_way(write, items)} if write else {}
        return Refused(moved, entries, orders) if moved or entries or orders else None

    def _waiting_now(self, username: str) -> list[tuple[str, Item]]:
        return sorted((sk, item) for sk, item in self._items.get(account_pk(username), {}).items() if sk.startswith(PARKED_PREFIX))

    def _put(self, *items: Item) -> None:
        from tests.fakes.ledger import as_stored  # noqa: PLC0415 - the two halves of one fake

        for item in items:
            self._items.setdefault(item["pk"]["S"], {})[item["sk"]["S"]] = as_stored(item)


def too_large(items: Sequence[Item]) -> bool:
    """Whether one of the items is over DynamoDB's limit."""
    return any(len(str(item)) > ITEM_BYTES_MAX for item in items)
