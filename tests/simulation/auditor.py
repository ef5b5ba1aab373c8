"""The auditor: watches store and log from outside, keeps its own books in exact fractions, and says what is wrong the moment it is.

It reads what stands on the wires and in the items with the schemas' and the ledger's codecs, and uses nothing else of the code under test.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from uuid import UUID

from aiokafka import TopicPartition

from events import topics
from events.envelope import Unreadable, read
from infra.dynamo import Item
from infra.ledger_items import read_entry, read_order
from infra.parked import read_or_head, read_waiting
from schemas.instants import from_millis
from schemas.ledger import Account, CashLine, Entry, Order, Position
from schemas.requests import INTERNAL, DrainRequested, LoggedRequest, UnreadableRequest, decode_request, next_drain_id, parking_id
from schemas.results import PARKED, decode_result, encode_result, result_id, result_of, result_type
from tests.domain.plain import Book
from tests.fakes.dynamo import Changes
from tests.fakes.kafka_broker import Broker, Log, Slot, Transaction

Key = tuple[str, str]
Place = tuple[int, int]
DRAIN = DrainRequested.__name__


class Wrong(AssertionError):
    """A guarantee does not hold. The text names it."""


def must(holds: object, guarantee: str) -> None:
    """Raise Wrong where it does not."""
    if not holds:
        raise Wrong(guarantee)


@dataclass
class Asked:
    """A record of the requests topic that can be read."""

    logged: LoggedRequest
    reply_to: str | None


@dataclass
class Books:
    """What the auditor knows of one account."""

    version: int = 0
    told: int = 0
    order: int = -1
    owned: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    held: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    orders: dict[str, Order] = field(default_factory=dict)
    account: Account | None = None
    is_parked: bool = False
    waiting: set[Place] = field(default_factory=set)


class Auditor:
    """One run's books: what was asked in the order of the log, what was stored, what was told.

    `at_fault` tells whether an account's own work ever failed by a bug or a damaged item: nothing else may park it.
    """

    def __init__(self, at_fault: Callable[[str], bool]) -> None:
        self._at_fault = at_fault
        self.asked: dict[Place, Asked] = {}
        self.books: dict[str, Books] = defaultdict(Books)
        self.entries: dict[Key, Entry] = {}
        self.offsets: dict[int, int] = defaultdict(int)
        self.told: set[Key] = set()
        self._first: dict[Key, Place] = {}
        self._order: dict[str, list[LoggedRequest]] = defaultdict(list)
        self._unreadable: set[Place] = set()
        self._lettered: set[Place] = set()
        self._told_in_log: set[Key] = set()
        self._read: dict[TopicPartition, int] = defaultdict(int)

    # The log

    def changed(self, tp: TopicPartition, log: Log) -> None:
        """A committed reader sees more of a partition."""
        slots, self._read[tp] = log.read(self._read[tp], log.end)
        match tp.topic:
            case topics.REQUESTS:
                for slot in slots:
                    self._request(tp.partition, slot)
            case topics.RESULTS:
                for slot in slots:
                    self._result(tp.partition, slot)

    def decided(self, transaction: Transaction, broker: Broker) -> None:
        """A transaction of the log is committed: results, letters and offset are one."""
        told: set[Key] = set()
        asked: set[str] = set()
        lettered: set[Place] = set()
        for tp, part in transaction.parts.items():
            mine = [slot for slot in broker.logs[tp].slots[part.first :] if slot.part is part and not slot.is_marker]
            if tp.topic == topics.RESULTS:
                told |= {_told(slot) for slot in mine}
            elif tp.topic == topics.REQUESTS:
                asked |= {(dict(slot.headers)["ce_id"] or b"").decode() for slot in mine}
            elif tp.topic == topics.DEAD_LETTERS:
                lettered |= {_lettered(slot) for slot in mine}
                must(all(self._is_letter(slot, broker) for slot in mine), "a dead letter holds its record as it came")
        must(not lettered & self._lettered, "a dead letter once")
        must(lettered <= self._unreadable, "only an unreadable record is a dead letter")
        self._lettered |= lettered
        must(not told & self._told_in_log, "each result exactly once")
        goes_on = {next_drain_id(entry.request_id) for key in told if (entry := self.entries.get(key)) and entry.parking and entry.parking.goes_on}
        must(goes_on == asked, "a step of draining that goes on asks for the next one with its results")
        self._told_in_log |= told
        for offsets in transaction.offsets.values():
            for tp, offset in offsets.items():
                must(offset >= self.offsets[tp.partition], "offsets never go back")
                for number in range(self.offsets[tp.partition], offset):
                    self._is_settled((tp.partition, number))
                self.offsets[tp.partition] = offset

    def _is_letter(self, letter: Slot, broker: Broker) -> bool:
        partition, offset = _lettered(letter)
        record = broker.logs[TopicPartition(topics.REQUESTS, partition)].slots[offset]
        return (letter.key, letter.value) == (record.key, record.value) and set(letter.headers) >= set(record.headers)

    def _is_settled(self, place: Place) -> None:
        must(place not in self._unreadable or place in self._lettered, "no offset past an unreadable record without its letter")
        asked = self.asked.get(place)
        if asked is None:
            return
        username, request_id = asked.logged.request.username, asked.logged.request_id
        parked = username, parking_id(username, *place)
        must(parked not in self.entries or parked in self._told_in_log, "no offset past a parking that was not told")
        if isinstance(asked.logged.request, DrainRequested):
            return
        entry = self.entries.get((username, request_id))
        if entry and entry.drained_by is None and (entry.partition, entry.offset) == place:
            must((username, request_id) in self._told_in_log, "no offset past a result that was not told")
        if self._first[username, request_id] == place and not isinstance(asked.logged.request, INTERNAL):
            must(entry or place in self.books[username].waiting, "no offset past a request that is neither settled nor waits")

    def _request(self, partition: int, slot: Slot) -> None:
        place = partition, slot.offset
        try:
            envelope = read(slot.key, slot.value, slot.headers)  # type: ignore[arg-type] # headers without a value are what it looks for
            request = decode_request(envelope.type, envelope.value)
        except (Unreadable, UnreadableRequest):
            self._unreadable.add(place)
            return
        if request.username != envelope.subject or not _is_uuid(envelope.id):
            self._unreadable.add(place)
            return
        key = request.username, envelope.id
        logged = LoggedRequest(request, envelope.id, from_millis(slot.timestamp_ms), partition, slot.offset, "", "")
        self.asked[place] = Asked(logged, envelope.reply_to)
        if key not in self._first or isinstance(request, INTERNAL):
            self._order[request.username].append(logged)
        if key not in self._first:
            self._first[key] = place
        elif not isinstance(request, INTERNAL):
            must(slot.part is None, "a follow-up request is asked once")

    def _result(self, partition: int, slot: Slot) -> None:
        envelope = read(slot.key, slot.value, slot.headers)  # type: ignore[arg-type] # as above
        result = decode_result(envelope.value)
        key = result.username, result.request_id
        entry = self.entries.get(key)
        if entry is None:
            raise Wrong("no result without its change")
        must(key not in self.told, "each result exactly once")
        must(envelope.value == encode_result(result_of(entry)), "a result is the same to the byte whenever it is made")
        books = self.books[result.username]
        must(result.version == books.told + 1, "results of an account come by version, without a gap")
        asked = self.asked[entry.partition, entry.offset]
        must(partition == entry.partition, "a result goes to the partition of its request")
        must((envelope.id, envelope.causation_id) == (result_id(result.request_id), result.request_id), "a result has its id")
        must((envelope.subject, envelope.time, envelope.sequence) == (result.username, entry.at, entry.version), "an envelope tells its result")
        must(envelope.type == result_type(result), "an envelope tells its result's type")
        must(envelope.reply_to == asked.reply_to, "a result goes to who asked")
        self.told.add(key)
        books.told = result.version

    # The store

    def stored(self, changes: Changes) -> None:
        """Items were written or removed, all at once."""
        accounts = {item["pk"]["S"].removeprefix("ACCT#"): item for _, item in changes if item and item["sk"]["S"] == "ACCOUNT"}
        entries: list[Entry] = []
        for before, item in changes:
            sk = (item or before or {"sk": {"S": ""}})["sk"]["S"]
            if sk.startswith("ENTRY#"):
                must(before is None and item is not None, "an entry is written once, and stays")
                if item is not None:
                    entries.append(read_entry(item))
            elif sk.startswith("ORDER#"):
                self._stored_order(before, item)
            elif sk.startswith("DAY#"):
                must(before is None and item is not None, "a day that has ended is written once, and stays")
            elif sk.startswith("PARKED#"):
                self._waiting(before, item)
        for username, item in accounts.items():
            self._account(username, item, sorted((entry for entry in entries if entry.username == username), key=lambda entry: entry.version))
        must({entry.username for entry in entries} <= set(accounts), "an entry comes with its account")

    def _stored_order(self, before: Item | None, item: Item | None) -> None:
        if item is None:
            raise Wrong("an order stays")
        must(before is None or read_order(before).status == "open", "an order that is closed stays as it is")
        order = read_order(item)
        self.books[item["pk"]["S"].removeprefix("ACCT#")].orders[order.order_id] = order
        must(("due_side" in item) == (order.status == "open"), "the index has open orders alone")

    def repaired(self, item: Item) -> None:
        """An operator's hand wrote an account item."""
        self.books[item["pk"]["S"].removeprefix("ACCT#")].account = None

    def _account(self, username: str, item: Item, entries: list[Entry]) -> None:
        books = self.books[username]
        must([entry.version for entry in entries] == list(range(books.version + 1, books.version + 1 + len(entries))), "versions without a gap")
        must(int(item["version"]["N"]) == books.version + len(entries), "an account's version counts its entries")
        was_parked = books.is_parked
        books.is_parked = item.get("status") == {"S": "parked"}
        for entry in entries:
            self._entry(books, entry, was_parked=was_parked)
        books.version += len(entries)
        account = read_or_head(item)
        if not isinstance(account, Account):
            return
        books.account = account
        lines: dict[str, CashLine | Position] = {**account.cash, **account.positions}
        holds: dict[str, Fraction] = defaultdict(Fraction)
        for order in books.orders.values():
            holds["USD" if order.order_type.endswith("buy") else order.asset_id] += Fraction(order.held)
        for unit, line in lines.items():
            must(books.owned[unit] == Fraction(line.available), "balances are the sum of their entries")
            must(books.held[unit] == Fraction(line.held), "what is held is the sum of its entries")
            must(holds[unit] == Fraction(line.held), "what is held is what the open orders hold")
            must(line.available >= 0 and line.held >= 0, "nothing is negative")
        must({unit for owned in (books.owned, books.held) for unit, total in owned.items() if total} <= set(lines), "balances are the sum of their entries")
        must(account.counters.open_orders == sum(order.status == "open" for order in books.orders.values()), "open orders are counted")

    def _entry(self, books: Books, entry: Entry, *, was_parked: bool) -> None:
        key = entry.username, entry.request_id
        place = entry.partition, entry.offset
        must(key not in self.entries, "at most one entry for a request")
        if entry.kind == PARKED:
            must(entry.request_id == parking_id(entry.username, *place) and place in self.asked, "a parking has its record")
            must(self._at_fault(entry.username), "an account is parked only for a fault of its own")
            must(not was_parked and books.is_parked, "an account that is parked is not parked again")
        else:
            must(key in self._first, "no entry without a request")
            inside = isinstance(self.asked[place].logged.request, INTERNAL)
            must(self._first[key] == place or inside, "the first record of a request wins")
        if entry.kind not in (PARKED, DRAIN):
            must(entry.offset > books.order, "requests of one account settle in the order of the log")
            must(not was_parked or entry.drained_by, "a parked account settles nothing but by draining")
            books.order = entry.offset
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for posting in entry.postings:
            sums[posting.unit] += Fraction(posting.amount)
            if posting.account == "customer":
                books.owned[posting.unit] += Fraction(posting.amount)
            if posting.account == "held":
                books.held[posting.unit] += Fraction(posting.amount)
        must(not any(sums.values()), "debits equal credits")
        self.entries[key] = entry

    def _waiting(self, before: Item | None, item: Item | None) -> None:
        one = read_waiting(item or before or {})
        username = (item or before or {})["pk"]["S"].removeprefix("ACCT#")
        books, place, key = self.books[username], (one.partition, one.offset), (username, one.request_id)
        if item is not None:
            must(books.is_parked, "a request waits only in a parked account")
            must(place in books.waiting or key not in self.entries, "a settled request does not wait")
            books.waiting.add(place)
            return
        books.waiting.discard(place)
        if isinstance(self.asked[place].logged.request, INTERNAL) and key not in self.entries:
            return  # it found nothing to do
        must(key in self.entries, "a waiting request is removed only once it is settled")
        must(key in self._told_in_log, "a waiting request is removed only once its result is told")

    # The end

    def finish(self) -> None:
        """Faults have stopped and the log was read to its end."""
        wanted = {key for key, place in self._first.items() if not isinstance(self.asked[place].logged.request, (DrainRequested, *INTERNAL))}
        must(wanted <= set(self.entries), "every acknowledged request has an entry")
        must(set(self.entries) == self.told == self._told_in_log, "every entry has its result")
        must(self._unreadable == self._lettered, "every unreadable record is a dead letter")
        must(not any(books.is_parked for books in self.books.values()), "every parked account can be drained")
        for username, requests in self._order.items():
            self._compare(username, requests)

    def _compare(self, username: str, requests: Iterable[LoggedRequest]) -> None:
        """The outcomes are those of the plain book that read the log once, undisturbed."""
        book, done = Book(), set[str]()
        for logged in requests:
            if isinstance(logged.request, DrainRequested) or logged.request_id in done:
                continue
            entry = self.entries.get((username, logged.request_id))
            mine = entry is not None and (entry.partition, entry.offset) == (logged.partition, logged.offset)
            if isinstance(logged.request, INTERNAL) and not mine and self._at_fault(username):
                continue  # one that fails is dropped, and asked again
            code = book.take(logged)
            if book.passed:
                continue
            done.add(logged.request_id)
            if entry is None or not mine:
                raise Wrong("a request is settled by the record that had something to do")
            must((entry.refusal.code if entry.refusal else None) == code, "a request is settled as if nothing had ever failed")
        kinds = {key[1]: entry.kind for key, entry in self.entries.items() if key[0] == username}
        must({rid for rid, kind in kinds.items() if kind not in (PARKED, DRAIN)} == done, "a request that finds nothing to do leaves nothing")
        account = self.books[username].account
        if account is None:
            return
        cash = account.cash.get("USD") or CashLine()
        must((Fraction(cash.available) * 100, Fraction(cash.held) * 100) == (book.cents, book.held_cents), "cash is as if nothing had ever failed")
        for asset_id, position in account.positions.items():
            had, now = book.holdings[asset_id], (position.available, position.held, position.cost_basis * 100)
            must(tuple(map(Fraction, now)) == (had.quantity, had.held, had.cost), "so are holdings and their cost")
        statuses = {order_id: order.status for order_id, order in self.books[username].orders.items()}
        must(statuses == {order_id: order.status for order_id, order in book.orders.items()}, "so are orders")


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _told(slot: Slot) -> Key:
    """Whose request a result tells, by its headers; when it is read they must fit what it says."""
    headers = dict(slot.headers)
    return (slot.key or b"").decode(), (headers["ce_causationid"] or b"").decode()


def _lettered(slot: Slot) -> Place:
    headers = dict(slot.headers)
    return int(headers["dlq_partition"] or b""), int(headers["dlq_offset"] or b"")
