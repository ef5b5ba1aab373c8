"""What users, doors and strangers put into the requests topic, by a run's chance: money, orders, repetitions, fences, and what nobody can read."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random

from events.envelope import Envelope
from schemas.market import AssetFacts, Quote
from schemas.requests import (
    AccountRequest,
    Deposit,
    DrainRequested,
    FenceRequested,
    LimitStamp,
    OrderPlaced,
    OrderStamp,
    Withdrawal,
    encode_request,
    request_id,
    request_type,
)

USERS = ("ann_00", "bob_00", "cat_00", "dan_00")
Record = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""Key, value and headers."""


class Clients:
    """Makes records. `begin` is about when they will be in the log."""

    def __init__(self, chance: Random, begin: datetime) -> None:
        self._chance = chance
        self._begin = begin

    def script(self, count: int) -> Iterator[tuple[str, Record]]:
        """Records with the username that decides their partition; a few of them twice in a row, as a door does that got no answer."""
        for number in range(count):
            user = self._chance.choice(USERS)
            record = self._poison(user, number) if self._chance.random() < 0.06 else self._record(user, number)
            yield user, record
            if self._chance.random() < 0.08:
                yield user, record

    def drain(self, user: str, number: int) -> Record:
        """An operator's request to drain an account."""
        return _record(self._envelope(DrainRequested(user), f"drain-{number}", user))

    def _record(self, user: str, number: int) -> Record:
        """A request under a key of its own, or, often enough, under one that was used before."""
        key = str(self._chance.randrange(number + 1)) if self._chance.random() < 0.3 else str(number)
        key, value, headers = _record(self._envelope(self._request(user), key, user))
        return key, self._older(value) if self._chance.random() < 0.1 else value, headers

    def _envelope(self, request: AccountRequest, key: str, subject: str) -> Envelope:
        return Envelope(
            id=request_id(request.username, key),
            source="urn:cnop:command-api",
            type=request_type(request),
            subject=subject,
            time=self._begin,
            value=encode_request(request),
            correlation_id=f"c{key}",
            trace_id=f"t{key}",
            reply_to=self._chance.choice([None, "reply:door-1"]),
        )

    def _older(self, value: bytes | None) -> bytes:
        """As an older version of a door wrote it, or a newer one: fields with a default are not there, an unknown one is."""
        said = json.loads(value or b"{}")
        for name in ("currency", "time_in_force"):
            said.pop(name, None)
        return json.dumps({**said, "later": 1}).encode()

    def _poison(self, user: str, number: int) -> Record:  # noqa: PLR0911 - one kind of poison each
        """What can never be read."""
        envelope = self._envelope(Deposit(user, Decimal(1), LimitStamp(Decimal(500))), f"poison-{number}", user)
        key, value, headers = _record(envelope)
        match self._chance.randrange(9):
            case 0:
                return key, b"\xff not json", headers
            case 1:
                return key, None, headers
            case 2:
                return key, b'{"amount": []}', headers
            case 3:
                return key, value, tuple((name, b"cnop.account.Deposit.v9" if name == "ce_type" else said) for name, said in headers)
            case 4:
                return key, value, ()
            case 5:
                return b"eve_00", value, headers
            case 6:
                return key, value, tuple((name, b"x" * 300 if name == "ce_id" else said) for name, said in headers)
            case 7:
                return key, b"x" * 100_000, headers
            case _:
                other = self._chance.choice([name for name in USERS if name != user])
                return other.encode(), value, tuple((name, other.encode() if name == "ce_subject" else said) for name, said in headers)

    def _request(self, user: str) -> AccountRequest:
        chance = self._chance
        match chance.choice(["deposit", "deposit", "withdrawal", "buy", "buy", "sell", "fence"]):
            case "deposit":
                return Deposit(user, Decimal(chance.choice(["100.00", "250", "0.01", "0.001"])), LimitStamp(Decimal(500)))
            case "withdrawal":
                return Withdrawal(user, Decimal(chance.choice(["30.00", "100", "0.01"])), LimitStamp(Decimal(150)))
            case "fence":
                return FenceRequested(user)
            case side:
                return self._order(user, side)

    def _order(self, user: str, side: str) -> OrderPlaced:
        chance = self._chance
        until = self._begin + timedelta(seconds=chance.choice([5, 600]))
        quote = Quote(Decimal(chance.choice(["3.333", "50", "99.999999"])), 1, self._begin, until)
        stamp = OrderStamp(quote, AssetFacts(8, Decimal("0.1"), True, chance.choice([0, 10])), Decimal(1000))
        name = chance.choice([None, None, "mine", "yours"])
        quantity = Decimal(chance.choice(["0.1", "1", "1.5", "0.33333333"]))
        return OrderPlaced(user, chance.choice(["BTC", "ETH"]), f"market_{side}", quantity, stamp, client_order_id=name)  # type: ignore[arg-type]


def _record(envelope: Envelope) -> Record:
    return envelope.key, envelope.value, tuple(envelope.headers())
