"""The auditor: watches store and log from outside, keeps its own books in exact fractions, and says what is wrong the moment it is.

It uses the schemas to read what stands on the wires, and nothing of the code under test.
"""

from collections import defaultdict
from fractions import Fraction

from events.envelope import Unreadable, read
from infra.ledger import Write
from schemas.ledger import Account, Entry
from schemas.requests import LoggedRequest, UnreadableRequest, decode_request
from schemas.results import decode_result, encode_result, result_id, result_of, result_type
from tests.domain.plain import Book
from tests.fakes.log import Record, Transaction


class Wrong(AssertionError):
    """A guarantee does not hold. The text names it."""


def must(holds: object, guarantee: str) -> None:
    """Raise Wrong where it does not."""
    if not holds:
        raise Wrong(guarantee)


class Auditor:
    """One run's books: what was asked in the order of the log, what was stored, what was told."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], Record] = {}
        self._order: dict[str, list[LoggedRequest]] = defaultdict(list)
        self._replies: dict[str, str | None] = {}
        self._unreadable: set[tuple[int, int]] = set()
        self._lettered: set[tuple[int, int]] = set()
        self._entries: dict[tuple[str, str], Entry] = {}
        self._accounts: dict[str, Account] = {}
        self._owned: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
        self._told: dict[str, int] = defaultdict(int)
        self._told_ids: set[tuple[str, str]] = set()
        self._offsets: dict[int, int] = defaultdict(int)

    def asked(self, record: Record) -> None:
        """A record was appended to the requests topic."""
        try:
            envelope = read(record.key, record.value, record.headers)
            request = decode_request(envelope.type, envelope.value)
        except (Unreadable, UnreadableRequest):
            request = None
        if request is None or request.username != envelope.subject:
            self._unreadable.add((record.partition, record.offset))
            return
        key = request.username, envelope.id
        if key not in self._first:
            self._first[key] = record
            self._replies[envelope.id] = envelope.reply_to
            self._order[request.username].append(LoggedRequest(request, envelope.id, record.at, record.partition, record.offset, "", ""))

    def stored(self, write: Write) -> None:
        """A write happened in the store."""
        before = self._accounts.get(write.account.username, Account(write.account.username))
        for number, entry in enumerate(write.entries, before.version + 1):
            self._entry(entry, number)
        must(write.account.version == before.version + len(write.entries), "an account's version counts its entries")
        lines = {unit: line.available + line.held for unit, line in write.account.cash.items()}
        lines |= {unit: position.available + position.held for unit, position in write.account.positions.items()}
        for unit, total in lines.items():
            must(self._owned[write.account.username, unit] == Fraction(total) >= 0, "balances are the sum of their entries, and never negative")
        self._accounts[write.account.username] = write.account

    def committed(self, transaction: Transaction) -> None:
        """A transaction of the log was committed."""
        for partition, envelope in transaction.results:
            result = decode_result(envelope.value)
            key = result.username, result.request_id
            entry = self._entries.get(key)
            must(entry, "no result without its change")
            must(key not in self._told_ids, "each result exactly once")
            must(result == result_of(entry), "a result tells its entry")
            must(envelope.value == encode_result(result_of(entry)), "a result is the same to the byte whenever it is made")
            must(result.version == self._told[result.username] + 1, "results of an account come by version, without a gap")
            must(partition == self._first[key].partition, "a result goes to the partition of its request")
            must((envelope.id, envelope.causation_id) == (result_id(result.request_id), result.request_id), "a result has its id")
            must((envelope.subject, envelope.time, envelope.sequence) == (result.username, entry.at, entry.version), "an envelope tells its result")
            must(envelope.type == result_type(result), "an envelope tells its result's type")
            must(envelope.reply_to == self._replies[result.request_id], "a result goes to who asked")
            self._told_ids.add(key)
            self._told[result.username] = result.version
        for letter in transaction.letters:
            place = letter.partition, letter.offset
            must(place in self._unreadable and place not in self._lettered, "a dead letter is an unreadable record, once")
            self._lettered.add(place)
        for partition, offset in transaction.offsets.items():
            must(offset >= self._offsets[partition], "offsets never go back")
            self._offsets[partition] = offset

    def finish(self) -> None:
        """Faults have stopped and the log was read to its end."""
        must(set(self._entries) == set(self._first), "every acknowledged request has an entry")
        must(set(self._entries) == self._told_ids, "every entry has its result")
        must(self._unreadable == self._lettered, "every unreadable record is a dead letter")
        for username, requests in self._order.items():
            self._compare(username, requests)

    def _entry(self, entry: Entry, number: int) -> None:
        key = entry.username, entry.request_id
        must(key not in self._entries, "at most one entry for a request")
        first = self._first.get(key)
        must(first, "no entry without a request")
        must((entry.partition, entry.offset) == (first.partition, first.offset), "the first record of a request wins")
        must(entry.version == number, "versions without a gap")
        placed = [one for one in self._entries.values() if one.username == entry.username]
        must(all(one.offset < entry.offset for one in placed), "requests of one account settle in the order of the log")
        sums: dict[str, Fraction] = defaultdict(Fraction)
        for posting in entry.postings:
            sums[posting.unit] += Fraction(posting.amount)
            if posting.account == "customer":
                self._owned[entry.username, posting.unit] += Fraction(posting.amount)
        must(not any(sums.values()), "debits equal credits")
        self._entries[key] = entry

    def _compare(self, username: str, requests: list[LoggedRequest]) -> None:
        """The outcomes are those of the plain book that read the log once, undisturbed."""
        book = Book()
        for logged in requests:
            code = book.take(logged)
            refusal = self._entries[username, logged.request_id].refusal
            must((refusal.code if refusal else None) == code, "a request is settled as if nothing had ever failed")
        cash = self._accounts[username].cash.get("USD")
        must(Fraction(cash.available if cash else 0) * 100 == book.cents, "cash is what it would be if nothing had ever failed")
        for asset_id, position in self._accounts[username].positions.items():
            held = book.holdings[asset_id]
            must((Fraction(position.available), Fraction(position.cost_basis) * 100) == (held.quantity, held.cost), "so are holdings and their cost")
