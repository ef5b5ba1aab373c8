"""The auditor itself: it finds nothing in books that add up, and each thing that is wrong in books that do not."""

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.soak.auditor import Findings, audit
from tests.soak.evidence import POISON, REQUESTS, Evidence, Place, Promise, Record

ANN, BOB = "ann_lee", "bob_ray"


def result(username: str, version: int, amount: str, available: str) -> str:
    """The text of a deposit's result, or of a withdrawal's where the amount is negative; `available` is the balance after it."""
    kind = "Deposit" if Decimal(amount) > 0 else "Withdrawal"
    legs = [("customer", amount), ("world", str(-Decimal(amount)))]
    return json.dumps(
        {
            "username": username,
            "request_id": f"{username}-{version}",
            "version": version,
            "at": f"2026-11-25T12:00:0{version}Z",
            "kind": kind,
            "payload": {"type": kind, "amount": amount.removeprefix("-")},
            "lines": {"counters": {}, "cash": {"USD": {"available": available}}},
            "postings": [{"account": account, "unit": "USD", "amount": figure} for account, figure in legs],
        }
    )


REFUSED = json.dumps(
    {
        "username": ANN,
        "request_id": f"{ANN}-3",
        "version": 3,
        "at": "2026-11-25T12:00:03Z",
        "kind": "Withdrawal",
        "payload": {"type": "Withdrawal", "amount": "99"},
        "lines": {"counters": {}},
        "refusal": {"code": "insufficient-funds", "detail": "no"},
    }
)
TEXTS = {
    (ANN, 1): result(ANN, 1, "10.00", "10.00"),
    (BOB, 1): result(BOB, 1, "5.00", "5.00"),
    (ANN, 2): result(ANN, 2, "-4.00", "6.00"),
    (ANN, 3): REFUSED,
}
"""Results by account and version, in the order of the log."""
POISONED: Place = (0, 4)
ENDS = {(REQUESTS, 0): 6}, {(REQUESTS, 0): 6}


def good() -> Evidence:
    """Two accounts, four requests of which one is refused and one stands twice in the log, and one record that cannot be read."""
    requests = [Record(0, offset, name, _request_headers(name, version), b"{}") for offset, (name, version) in enumerate(TEXTS)]
    requests += [Record(0, 4, ANN, {POISON: "1"}, None), Record(0, 5, ANN, _request_headers(ANN, 1), b"{}")]
    results = [Record(0, offset, name, {"ce_sequence": f"{version:020d}"}, text.encode()) for offset, ((name, version), text) in enumerate(TEXTS.items())]
    entries = [_entry(name, version, offset, text) for offset, ((name, version), text) in enumerate(TEXTS.items())]
    accounts = [_account(ANN, 3, "6.00"), _account(BOB, 1, "5.00")]
    promises = [
        Promise(ANN, f"{ANN}-1", "Deposit", Decimal(10), "settled"),
        Promise(ANN, f"{ANN}-2", "Withdrawal", Decimal(4), "accepted"),
        Promise(ANN, f"{ANN}-3", "Withdrawal", Decimal(99), "refused"),
        Promise(BOB, f"{BOB}-1", "Deposit", Decimal(5), "unknown"),
        Promise(BOB, f"{BOB}-2", "Deposit", Decimal(5), "nothing"),
    ]
    letters = [Record(0, 0, ANN, {"dlq_partition": "0", "dlq_offset": "4"}, None)]
    return Evidence(requests, results, letters, [*entries, *accounts], promises, frozenset({POISONED}), [{0: 2}, {0: 6}], ENDS)


def test_good_books_are_clean() -> None:
    """Nothing is found where nothing is wrong, and the figures are those of the evidence."""
    findings = audit(good())
    assert findings.clean, findings.examples
    assert findings.figures == {
        "acknowledged": 3,
        "unknown": 1,
        "requests": 6,
        "entries": 4,
        "results": 4,
        "accounts": 2,
        "lost": 0,
        "doubled": 0,
        "duplicates": 0,
        "moved_back": 0,
        "dead_letters": 1,
    }


def lost_entry(evidence: Evidence) -> None:
    del evidence.items[0]


def lost_result(evidence: Evidence) -> None:
    del evidence.results[2]


def result_twice(evidence: Evidence) -> None:
    evidence.results.append(replace(evidence.results[1], offset=9))


def results_out_of_order(evidence: Evidence) -> None:
    evidence.results[2], evidence.results[3] = evidence.results[3], evidence.results[2]


def result_of_nobody(evidence: Evidence) -> None:
    text = result(BOB, 2, "1.00", "6.00")
    evidence.results.append(Record(0, 9, BOB, {"ce_sequence": "2"}, text.encode()))


def result_with_other_bytes(evidence: Evidence) -> None:
    evidence.results[0] = replace(evidence.results[0], value=TEXTS[ANN, 1].replace("10.00", "10.0").encode())


def result_elsewhere(evidence: Evidence) -> None:
    evidence.results[1] = replace(evidence.results[1], partition=1)


def entry_twice(evidence: Evidence) -> None:
    """The same deposit once more, under another key and version."""
    evidence.items[0:0] = [_entry(ANN, 4, 0, TEXTS[ANN, 1].replace('"version": 1', '"version": 4'))]


def gap_in_versions(evidence: Evidence) -> None:
    evidence.items[2] = {**evidence.items[2], "result": TEXTS[ANN, 2].replace('"version": 2', '"version": 7')}


def account_ahead(evidence: Evidence) -> None:
    evidence.items[-1] = _account(BOB, 2, "5.00")


def time_back(evidence: Evidence) -> None:
    evidence.items[2] = {**evidence.items[2], "result": TEXTS[ANN, 2].replace("12:00:02", "11:00:02")}


def entry_of_the_repetition(evidence: Evidence) -> None:
    evidence.items[0] = {**evidence.items[0], "offset": Decimal(5)}


def unbalanced(evidence: Evidence) -> None:
    legs = '"world", "unit": "USD", "amount": "-{}.00"'
    evidence.items[0] = {**evidence.items[0], "result": TEXTS[ANN, 1].replace(legs.format(10), legs.format(9))}


def negative(evidence: Evidence) -> None:
    """Bob takes out more than he has, and the books agree on it."""
    text = result(BOB, 2, "-7.00", "-2.00")
    evidence.requests.append(Record(0, 6, BOB, _request_headers(BOB, 2), b"{}"))
    evidence.results.append(Record(0, 4, BOB, {"ce_sequence": "2"}, text.encode()))
    evidence.items[-1:] = [_entry(BOB, 2, 6, text), _account(BOB, 2, "-2.00")]
    evidence.promises = evidence.promises[:-1]


def wrong_balance(evidence: Evidence) -> None:
    evidence.items[-2] = _account(ANN, 3, "6.01")


def line_forgotten(evidence: Evidence) -> None:
    evidence.items[-2] = {**_account(ANN, 3, "6.00"), "lines": _lines({})}


def held_for_nothing(evidence: Evidence) -> None:
    evidence.items[-2] = {**_account(ANN, 3, "6.00"), "lines": _lines({"USD": {"available": "5", "held": "1"}})}


def order_without_hold(evidence: Evidence) -> None:
    order = {"order_id": "ord_1", "status": "open", "order_type": "limit_buy", "asset_id": "BTC", "price": "2.005", "quantity": "1", "fee_bps": 10}
    evidence.items.append({"pk": f"ACCT#{ANN}", "sk": "ORDER#ord_1", "order": json.dumps(order)})


def _with_orders(evidence: Evidence, *statuses: str) -> None:
    """Entries of Bob's that tell of one order, one after the other; it stands as the first of them says."""
    terms = {"order_id": "ord_1", "order_type": "limit_sell", "asset_id": "BTC", "quantity": "1", "held": "0"}
    orders = [{**terms, "status": status} for status in statuses]
    for version, order in enumerate(orders, start=2):
        text = json.loads(result(BOB, version, "1.00", f"{4 + version}.00"))
        text["lines"]["order"] = order
        evidence.items.append(_entry(BOB, version, 100 + version, json.dumps(text)))
    evidence.items.append({"pk": f"ACCT#{BOB}", "sk": "ORDER#ord_1", "order": json.dumps(orders[0])})


def closed_order_changes(evidence: Evidence) -> None:
    _with_orders(evidence, "completed", "cancelled")


def order_left_behind(evidence: Evidence) -> None:
    _with_orders(evidence, "open", "cancelled")


def trigger_of_nobody(evidence: Evidence) -> None:
    """A trigger that left an entry of a place where it does not stand."""
    text = result(BOB, 2, "1.00", "6.00")
    headers = {**_request_headers(BOB, 2), "ce_type": "cnop.account.OrderTriggered.v1"}
    evidence.requests.append(Record(0, 6, BOB, headers, b"{}"))
    evidence.items.append(_entry(BOB, 2, 7, text))


def hold_from_nowhere(evidence: Evidence) -> None:
    """What is available and what is held add up, but no leg says that anything was held."""
    evidence.items[-1] = {**_account(BOB, 1, "5.00"), "lines": _lines({"USD": {"available": "4", "held": "1"}})}


def cancel_in_vain_told_settled(evidence: Evidence) -> None:
    """A cancel that found the order's time ended is no success."""
    text = json.loads(result(BOB, 2, "1.00", "6.00"))
    text |= {"kind": "OrderCancelRequested", "payload": {"type": "OrderCancelRequested"}}
    text["lines"]["order"] = {"order_id": "ord_1", "status": "expired"}
    evidence.items.append(_entry(BOB, 2, 6, json.dumps(text)))
    evidence.promises = [Promise(BOB, f"{BOB}-2", "OrderCancelRequested", Decimal(0), "settled")]


def still_parked(evidence: Evidence) -> None:
    evidence.items.append({"pk": f"ACCT#{ANN}", "sk": "PARKED#0#7"})


def told_settled(evidence: Evidence) -> None:
    evidence.promises = [replace(promise, told="settled") for promise in evidence.promises[2:3]]


def told_nothing(evidence: Evidence) -> None:
    evidence.promises = [replace(promise, told="nothing") for promise in evidence.promises[:1]]


def asked_for_more(evidence: Evidence) -> None:
    evidence.promises = [replace(evidence.promises[0], figure=Decimal(11))]


def offset_back(evidence: Evidence) -> None:
    evidence.committed = [{0: 4, 1: 1}, {0: 6, 1: 0}]


def letter_lost(evidence: Evidence) -> None:
    """The unreadable record was passed over."""
    evidence.letters.clear()


def letter_twice(evidence: Evidence) -> None:
    evidence.letters.append(replace(evidence.letters[0], offset=1))


def letter_of_a_good_record(evidence: Evidence) -> None:
    evidence.letters.append(Record(0, 1, ANN, {"dlq_partition": "0", "dlq_offset": "1"}, None))


def written_meanwhile(evidence: Evidence) -> None:
    """A request came while log and ledger were read."""
    evidence.ends = ({(REQUESTS, 0): 6}, {(REQUESTS, 0): 7})


TAMPERED: dict[Callable[[Evidence], None], str] = {
    lost_entry: "lost",
    lost_result: "lost",
    result_twice: "duplicate-result",
    results_out_of_order: "result-order",
    result_of_nobody: "result-without-entry",
    result_with_other_bytes: "result-is-not-the-entry's",
    result_elsewhere: "result-on-another-partition",
    entry_twice: "doubled",
    gap_in_versions: "entry-versions",
    account_ahead: "account-version",
    time_back: "time-goes-back",
    entry_of_the_repetition: "entry-not-of-first-record",
    unbalanced: "postings-do-not-balance",
    negative: "negative",
    wrong_balance: "balance-is-not-the-fold",
    line_forgotten: "balance-is-not-the-fold",
    held_for_nothing: "held-is-not-the-open-orders",
    order_without_hold: "held-is-not-the-open-orders",
    closed_order_changes: "closed-order-changed",
    order_left_behind: "order-is-not-its-entry's",
    trigger_of_nobody: "entry-of-no-record",
    hold_from_nowhere: "balance-is-not-the-fold",
    cancel_in_vain_told_settled: "told-another-outcome",
    still_parked: "still-parked",
    told_settled: "told-another-outcome",
    told_nothing: "told-nothing-was-sent",
    asked_for_more: "entry-is-not-what-was-asked",
    offset_back: "offset-moved-back",
    letter_lost: "dead-letter-missing",
    letter_twice: "dead-letter-twice",
    written_meanwhile: "written-while-read",
    letter_of_a_good_record: "dead-letter-of-a-good-record",
}


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_what_is_wrong_is_found(tamper: Callable[[Evidence], None]) -> None:
    """Each change of good books is a violation of the rule that it breaks."""
    evidence = good()
    tamper(evidence)
    findings = audit(evidence)
    assert TAMPERED[tamper] in findings.violations, findings.violations


def test_a_lost_result_counts_once() -> None:
    """The figures of the table are the numbers of their violations."""
    evidence = good()
    lost_result(evidence)
    findings: Findings = audit(evidence)
    assert (findings.figures["lost"], findings.violations["entry-without-result"], findings.violations["result-order"]) == (1, 1, 1)


def _request_headers(username: str, version: int) -> dict[str, str]:
    return {"ce_id": f"{username}-{version}", "ce_type": "cnop.account.Deposit.v1", "ce_subject": username}


def _entry(username: str, version: int, offset: int, text: str) -> dict[str, Any]:
    return {"pk": f"ACCT#{username}", "sk": f"ENTRY#{username}-{version}", "partition": Decimal(0), "offset": Decimal(offset), "result": text}


def _account(username: str, version: int, available: str) -> dict[str, Any]:
    return {"pk": f"ACCT#{username}", "sk": "ACCOUNT", "version": Decimal(version), "lines": _lines({"USD": {"available": available}})}


def _lines(cash: dict[str, dict[str, str]]) -> str:
    return json.dumps({"counters": {}, "cash": cash})
