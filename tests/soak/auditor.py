"""The auditor: holds log, ledger and what callers were told against each other, and says what does not fit.

Knows the wire formats alone and shares no code with the system, so that a mistake of ours cannot hide itself. A rule is a function of the evidence.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_UP, Context, Decimal
from typing import Any, Final

from tests.soak.evidence import ACKNOWLEDGED, Evidence, Record

EXAMPLES_MAX: Final = 5
"""Violations of one rule that are spelled out; all are counted."""
INTERNAL: Final = ("Account", "Drain")
"""Kinds of entries and requests that the system itself makes begin with these: they need no record of a caller, or no entry."""
INSIDE: Final = ("OrderTriggered", "OrderExpiryReached", "OrderRevoked")
"""Requests about orders that nobody outside makes. One that finds nothing to do leaves no entry, and the same one may come again and find something."""
CANCEL: Final = "OrderCancelRequested"
Owned = Mapping[str, dict[str, Decimal]]
"""What is available (`customer`) and what is held, by unit."""
_EXACT: Final = Context(prec=80)
_CENT: Final = Decimal("0.01")
_ZERO: Final = Decimal(0)

Fault = tuple[str, str]
"""The rule that is broken, and by what."""


@dataclass(frozen=True, slots=True)
class Books:
    """The evidence in order: by account, and the first readable record of each request."""

    accounts: Mapping[str, dict[str, Any]]
    entries: Mapping[str, list[dict[str, Any]]]
    """By username, in the order of their versions."""
    orders: Mapping[str, list[dict[str, Any]]]
    parked: Mapping[str, int]
    by_id: Mapping[tuple[str, str], dict[str, Any]]
    first: Mapping[tuple[str, str], Record]
    places: Mapping[tuple[str, str], set[tuple[int, int]]]
    """Where the records of each request stand."""
    results: Mapping[str, list[dict[str, Any]]]
    """By username, in the order of the log."""


@dataclass(slots=True)
class Findings:
    """What the audit says: figures by name, violations by rule, the first of each rule in words."""

    figures: dict[str, int] = field(default_factory=dict)
    violations: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def clean(self) -> bool:
        """Whether every rule holds."""
        return not self.violations

    def take(self, faults: Iterable[Fault]) -> None:
        """Count violations."""
        for rule, what in faults:
            self.violations[rule] += 1
            if len(self.examples[rule]) < EXAMPLES_MAX:
                self.examples[rule].append(what)


def audit(evidence: Evidence) -> Findings:
    """Hold every rule against the evidence."""
    findings = Findings()
    books = keep_books(evidence)
    for rule in RULES:
        findings.take(rule(evidence, books))
    acknowledged = [promise for promise in evidence.promises if promise.told in ACKNOWLEDGED]
    findings.figures = {
        "acknowledged": len(acknowledged),
        "unknown": sum(promise.told == "unknown" for promise in evidence.promises),
        "requests": len(evidence.requests),
        "entries": sum(map(len, books.entries.values())),
        "results": len(evidence.results),
        "accounts": len(books.accounts),
        "lost": findings.violations["lost"],
        "doubled": findings.violations["doubled"],
        "duplicates": findings.violations["duplicate-result"],
        "moved_back": findings.violations["offset-moved-back"],
        "dead_letters": len(evidence.letters),
    }
    return findings


def keep_books(evidence: Evidence) -> Books:
    """Sort the evidence."""
    accounts: dict[str, dict[str, Any]] = {}
    entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    orders: dict[str, list[dict[str, Any]]] = defaultdict(list)
    parked: Counter[str] = Counter()
    by_id: dict[tuple[str, str], dict[str, Any]] = {}
    for item in map(_row, evidence.items):
        username, (kind, _, name) = item["pk"].removeprefix("ACCT#"), item["sk"].partition("#")
        match kind:
            case "ACCOUNT":
                accounts[username] = {**item, **json.loads(item.get("lines") or "{}")}
            case "ENTRY":
                entries[username].append(item)
                by_id[username, name] = item
            case "ORDER":
                orders[username].append(item)
            case "PARKED":
                parked[username] += 1
    for rows in entries.values():
        rows.sort(key=lambda entry: entry["version"])
    first: dict[tuple[str, str], Record] = {}
    places: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    unreadable = {_letter_place(letter) for letter in evidence.letters}
    for record in evidence.requests:
        if record.place not in unreadable:
            first.setdefault((record.key, record.headers.get("ce_id", "")), record)
            places[record.key, record.headers.get("ce_id", "")].add(record.place)
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in evidence.results:
        results[record.key].append({**_json(record.value), "record": record})
    return Books(accounts, entries, orders, parked, by_id, first, places, results)


# Whether it can be judged at all


def still(evidence: Evidence, _books: Books) -> Iterator[Fault]:
    """Nothing was written while log and ledger were read: else one of them may tell of what the other one had not yet."""
    before, after = evidence.ends
    for topic, partition in sorted(after):
        was, came = before.get((topic, partition)), after[topic, partition]
        if was != came:
            yield "written-while-read", f"{topic} {partition}: from {was} to {came}"


# What callers were told


def told(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """An acknowledged request has its entry and its result, of the outcome that was told; one that was never handed over has none."""
    published = {(username, row.get("request_id")) for username, rows in books.results.items() for row in rows}
    for promise in evidence.promises:
        entry, who = books.by_id.get((promise.username, promise.request_id)), f"{promise.username} {promise.request_id} ({promise.kind}, {promise.told})"
        if promise.told in ACKNOWLEDGED and (entry is None or (promise.username, promise.request_id) not in published):
            yield "lost", f"{who}: {'no entry' if entry is None else 'no result'}"
        if entry is None:
            continue
        if promise.told == "nothing":
            yield "told-nothing-was-sent", who
        if (promise.told, _is_refused(entry)) in {("settled", True), ("refused", False)}:
            yield "told-another-outcome", who
        asked = entry["payload"].get("amount") or entry["payload"].get("quantity") or 0
        if (entry["kind"], Decimal(asked)) != (promise.kind, promise.figure):
            yield "entry-is-not-what-was-asked", f"{who}: asked {promise.figure}, entry {entry['kind']} {asked}"


def _is_refused(entry: Mapping[str, Any]) -> bool:
    """A cancel that found its order's time ended closed it, and was refused all the same."""
    order = entry["lines"].get("order") or {}
    return bool(entry.get("refusal")) or (entry["kind"] == CANCEL and order.get("status") != "cancelled")


# The log and the ledger


def decided_once(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """Every readable record has an entry, which names the first record of its id; no two entries are of one request or of one record."""
    yield from _first_records(books)
    places: Counter[tuple[Any, ...]] = Counter()
    for username, rows in books.entries.items():
        ids: Counter[str] = Counter()
        for entry in rows:
            ids[entry["request_id"]] += 1
            if entry["kind"].startswith(INTERNAL):
                continue
            places[entry["partition"], entry["offset"]] += 1
            if (username, entry["request_id"]) not in books.first:
                yield "entry-without-record", f"{username} {entry['request_id']}"
            if entry["sk"] != f"ENTRY#{entry['request_id']}" or entry["username"] != username:
                yield "entry-under-another-key", f"{entry['pk']} {entry['sk']}"
        yield from (("doubled", f"{username}: {count} entries of {rid}") for rid, count in ids.items() if count > 1)
    yield from (("doubled", f"{count} entries of the record at {place}") for place, count in places.items() if count > 1)


def _first_records(books: Books) -> Iterator[Fault]:
    for (username, rid), record in books.first.items():
        kind = record.headers.get("ce_type", "").removeprefix("cnop.account.")
        if kind.startswith(INTERNAL):
            continue
        entry = books.by_id.get((username, rid))
        if kind.startswith(INSIDE):
            if entry and (entry["partition"], entry["offset"]) not in books.places[username, rid]:
                yield "entry-of-no-record", f"{username} {rid}: entry of {entry['partition']}/{entry['offset']}"
        elif entry is None:
            yield "record-without-entry", f"{username} {rid} at {record.place}"
        elif (entry["partition"], entry["offset"]) != record.place:
            yield "entry-not-of-first-record", f"{username} {rid}: entry of {entry['partition']}/{entry['offset']}, first at {record.place}"


def versions(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """An account's entries have the versions 1, 2, 3 … and times that never go back; the account has the last of them. Nothing stays parked."""
    for username in books.accounts.keys() | books.entries.keys():
        rows, account = books.entries.get(username, []), books.accounts.get(username, {})
        found = [int(entry["version"]) for entry in rows]
        if found != list(range(1, len(rows) + 1)):
            yield "entry-versions", f"{username}: {_around_gap(found)}"
        if account.get("version", 0) != len(rows):
            yield "account-version", f"{username}: version {account.get('version')} of the account, {len(rows)} entries"
        times = [entry["at"] for entry in rows]
        if times != sorted(times):
            yield "time-goes-back", username
    yield from (("still-parked", f"{username}: {count} requests") for username, count in books.parked.items())


def results(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """Each entry has one result, which says what it says; an account's results come in the order of its versions, without a gap."""
    for username in books.entries.keys() | books.results.keys():
        seen: set[str] = set()
        last = 0
        for row in books.results.get(username, []):
            record: Record = row["record"]
            rid, version = row.get("request_id", ""), row.get("version", 0)
            if rid in seen:
                yield "duplicate-result", f"{username} {rid} again at {record.place}"
                continue
            seen.add(rid)
            if version != last + 1:
                yield "result-order", f"{username}: version {version} after {last} at {record.place}"
            last = version
            yield from _same(username, row, books.by_id.get((username, rid)))
        missing = [entry for entry in books.entries.get(username, []) if entry["request_id"] not in seen]
        yield from (("entry-without-result", f"{username} {entry['request_id']} version {entry['version']}") for entry in missing)


def _same(username: str, row: Mapping[str, Any], entry: Mapping[str, Any] | None) -> Iterator[Fault]:
    record: Record = row["record"]
    if entry is None:
        yield "result-without-entry", f"{username} {row.get('request_id')} at {record.place}"
        return
    if record.value != entry["result"].encode():
        yield "result-is-not-the-entry's", f"{username} {row.get('request_id')} at {record.place}: {record.value!r} and {entry['result']!r}"
    if record.headers.get("ce_sequence", "").lstrip("0") != str(row.get("version")):
        yield "result-with-another-sequence", f"{username} {row.get('request_id')} at {record.place}"
    if not entry["kind"].startswith(INTERNAL) and record.partition != entry["partition"]:
        yield "result-on-another-partition", f"{username} {row.get('request_id')} at {record.place}"


# Money


def money(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """Postings sum to zero per unit; the lines of each entry, and the account at the end, are the fold of the postings from zero; nothing is negative."""
    for username, rows in books.entries.items():
        owned: Owned = {"customer": defaultdict(Decimal), "held": defaultdict(Decimal)}
        for entry in rows:
            sums: dict[str, Decimal] = defaultdict(Decimal)
            for leg in entry.get("postings") or ():
                amount = Decimal(leg["amount"])
                sums[leg["unit"]] = _EXACT.add(sums[leg["unit"]], amount)
                if leg["account"] in owned:
                    part = owned[leg["account"]]
                    part[leg["unit"]] = _EXACT.add(part[leg["unit"]], amount)
            where = f"{username} version {entry['version']}"
            yield from (("postings-do-not-balance", f"{where}: {unit} {rest}") for unit, rest in sums.items() if rest)
            yield from _lines(where, entry.get("lines") or {}, owned, whole=False)
        yield from _lines(f"{username}'s account", books.accounts.get(username, {}), owned, whole=True)


def _lines(where: str, holder: Mapping[str, Any], owned: Owned, *, whole: bool) -> Iterator[Fault]:
    found = {**(holder.get("cash") or {}), **(holder.get("positions") or {})}
    for unit, line in found.items():
        parts = {name: Decimal(line.get(name) or 0) for name in ("available", "held", "cost_basis")}
        for name, house in (("available", "customer"), ("held", "held")):
            if parts[name] != owned[house].get(unit, _ZERO):
                yield "balance-is-not-the-fold", f"{where}: {parts[name]} {unit} {name}, the postings give {owned[house].get(unit, _ZERO)}"
        yield from (("negative", f"{where}: {name} {value} {unit}") for name, value in parts.items() if value < 0)
    if whole:
        rests = [(unit, rest) for part in owned.values() for unit, rest in part.items() if rest and unit not in found]
        yield from (("balance-is-not-the-fold", f"{where}: no {unit}, the postings give {rest}") for unit, rest in rests)


def holds(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """What an account holds back is what its open orders need: price and fee of a purchase rounded up each, the quantity of a sale."""
    for username, account in books.accounts.items():
        needed: dict[str, Decimal] = defaultdict(Decimal)
        for order in books.orders.get(username, []):
            if order["status"] == "open":
                unit, amount = _held_for(order)
                needed[unit] = _EXACT.add(needed[unit], amount)
        lines = {**(account.get("cash") or {}), **(account.get("positions") or {})}
        for unit in lines.keys() | needed.keys():
            held = Decimal(lines.get(unit, {}).get("held") or 0)
            if held != needed[unit]:
                yield "held-is-not-the-open-orders", f"{username}: {held} {unit} held, open orders need {needed[unit]}"


def _held_for(order: Mapping[str, Any]) -> tuple[str, Decimal]:
    rest = _EXACT.subtract(Decimal(order["quantity"]), Decimal(order.get("filled_quantity") or 0))
    if order["order_type"].endswith("sell"):
        return order["asset_id"], rest
    value = _EXACT.multiply(Decimal(order["price"]), rest)
    fee = _EXACT.divide(_EXACT.multiply(value, Decimal(order["fee_bps"])), Decimal(10_000))
    return "USD", _EXACT.add(value.quantize(_CENT, ROUND_UP, _EXACT), fee.quantize(_CENT, ROUND_UP, _EXACT))


def orders(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """An order that is closed never changes again, and every order stands as the last entry about it says."""
    for username in books.entries.keys() | books.orders.keys():
        last: dict[str, dict[str, Any]] = {}
        for entry in books.entries.get(username, []):
            order = entry["lines"].get("order")
            if not order:
                continue
            before = last.get(order["order_id"])
            if before and before["status"] != "open":
                yield "closed-order-changed", f"{username} {order['order_id']}: {order['status']} at version {entry['version']}, was {before['status']}"
            last[order["order_id"]] = order
        stored = {order["order_id"]: order for order in books.orders.get(username, [])}
        for order_id in last.keys() | stored.keys():
            said, is_ = last.get(order_id, {}), stored.get(order_id, {})
            if any(said.get(name) != is_.get(name) for name in ("status", "held", "filled_quantity", "total_amount", "fee")):
                yield "order-is-not-its-entry's", f"{username} {order_id}: {is_.get('status')}, the entry says {said.get('status')}"


# Offsets and dead letters


def offsets(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """A committed offset never goes back."""
    highest: dict[int, int] = {}
    for number, look in enumerate(evidence.committed):
        for partition, offset in look.items():
            if offset < highest.get(partition, 0):
                yield "offset-moved-back", f"partition {partition}: {highest[partition]}, then {offset} (look {number})"
            highest[partition] = offset


def letters(evidence: Evidence, books: Books) -> Iterator[Fault]:
    """The dead letters are the records that were made unreadable on purpose, each once."""
    found = Counter(_letter_place(letter) for letter in evidence.letters)
    yield from (("dead-letter-missing", str(place)) for place in evidence.injected - found.keys())
    yield from (("dead-letter-of-a-good-record", str(place)) for place in found.keys() - evidence.injected)
    yield from (("dead-letter-twice", f"{count} of {place}") for place, count in found.items() if count > 1)


RULES: Final[tuple[Callable[[Evidence, Books], Iterator[Fault]], ...]] = (still, told, decided_once, versions, results, money, holds, orders, offsets, letters)


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item with what it keeps as text: an entry's result, an order."""
    texts = [json.loads(item[name]) for name in ("result", "order") if name in item]
    return {name: value for fields in (*texts, item) for name, value in fields.items()}


def _letter_place(letter: Record) -> tuple[int, int]:
    return int(letter.headers.get("dlq_partition", "-1")), int(letter.headers.get("dlq_offset", "-1"))


def _json(value: bytes | None) -> dict[str, Any]:
    loaded = json.loads(value or b"{}")
    return loaded if isinstance(loaded, dict) else {}


def _around_gap(found: list[int]) -> str:
    wrong = next((number for number, version in enumerate(found) if version != number + 1), len(found))
    return f"versions {found[max(0, wrong - 2) : wrong + 3]} at place {wrong}"
