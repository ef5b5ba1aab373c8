"""The requests that are measured with."""

from collections import Counter
from datetime import UTC, datetime

from bench.mix import WEIGHTS, Mix
from processors.domain.decide import decide_all
from schemas.ledger import Account
from schemas.requests import Deposit, LoggedRequest, OrderPlaced, Withdrawal, decode_request, encode_request, request_type

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def test_the_same_day_is_the_same_requests() -> None:
    """A run can be repeated: settlement and the raw limit work on equal requests."""
    assert list(Mix("abc", 20, AT).requests(500)) == list(Mix("abc", 20, AT).requests(500))


def test_no_request_of_a_day_is_refused() -> None:
    """What is measured is work that moves money: the rules refuse nothing of it, and it passes the wire unchanged."""
    requests = list(Mix("abc", 5, AT).requests(3_000))
    assert all(decode_request(request_type(request), encode_request(request)) == request for request in requests)
    for name in Mix("abc", 5, AT).usernames():
        own = [request for request in requests if request.username == name]
        logged = tuple(LoggedRequest(request, f"{name}-{number}", AT, 0, number, "c", "t") for number, request in enumerate(own))
        entries = decide_all(Account(name), logged, {}).entries
        assert not [entry.refusal for entry in entries if entry.refusal]


def test_the_mix_is_as_it_is_told() -> None:
    """The results name the weights: the day has them."""
    kinds = Counter(kind(request) for request in list(Mix("abc", 10, AT).requests(20_000))[100:])
    shares = {name: 100 * kinds[name] / kinds.total() for name in WEIGHTS}
    assert all(abs(shares[name] - weight) < 2 for name, weight in WEIGHTS.items()), shares


def test_every_account_has_a_part() -> None:
    """Requests are spread over all accounts, none of which has a fifth more or less than its share."""
    shares = Counter(request.username for request in Mix("abc", 10, AT).requests(20_000))
    assert len(shares) == 10
    assert all(1_600 < count < 2_400 for count in shares.values())


def test_openings_are_one_for_each_account() -> None:
    """A store is filled with accounts by as many requests."""
    work = Mix("abc", 50, AT).openings()
    assert sorted(request.username for request in work.requests) == sorted(Mix("abc", 50, AT).usernames())
    assert work.count == 50


def kind(request: object) -> str:
    match request:
        case Deposit():
            return "deposit"
        case Withdrawal():
            return "withdrawal"
        case OrderPlaced():
            return request.order_type
        case _:
            raise TypeError(type(request))
