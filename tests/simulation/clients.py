"""What users, doors, triggers and strangers put into the requests topic, by a run's chance: money, orders, repetitions, fences, and what nobody can read."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from events.envelope import Envelope
from schemas.market import AssetFacts, Quote
from schemas.requests import (
    AccountRequest,
    Deposit,
    DrainRequested,
    FenceRequested,
    LimitStamp,
    OrderCancelRequested,
    OrderExpiryReached,
    OrderPlaced,
    OrderRevoked,
    OrderStamp,
    OrderTriggered,
    Withdrawal,
    encode_request,
    expiry_id,
    order_id,
    request_id,
    request_type,
    revocation_id,
    trigger_id,
)

USERS = ("ann_00", "bob_00", "cat_00", "dan_00")
WEIGHTS = (4, 3, 2, 1)
PRICES = {1: Decimal("99.5"), 2: Decimal(45), 3: Decimal("3.333"), 4: Decimal(120)}
"""The market's prices by their sequence,"""
PRICED = {1: timedelta(), 2: timedelta(seconds=6), 3: timedelta(minutes=1), 4: timedelta(minutes=1)}
"""and when each is made."""
Record = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""Key, value and headers."""


class Clients:
    """Makes records. `begin` is about when they will be in the log."""

    def __init__(self, chance: Random, begin: datetime) -> None:
        self._chance = chance
        self._begin = begin
        self._orders: dict[str, list[str]] = {user: [] for user in USERS}

    def script(self, count: int) -> Iterator[tuple[str, Record]]:
        """Records with the username that decides their partition; a few of them twice in a row, as a door does that got no answer."""
        for number in range(count):
            user = self._chance.choices(USERS, WEIGHTS)[0]
            if number < len(USERS):  # some money to begin with
                yield USERS[number], _record(self._envelope(Deposit(USERS[number], Decimal(400), LimitStamp(Decimal(500))), f"first-{number}", USERS[number]))
                continue
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
        if self._orders[user] and self._chance.random() < 0.4:
            return self._about(user, self._chance.choice(self._orders[user][-2:]), key)
        request = self._request(user)
        if isinstance(request, OrderPlaced):
            self._orders[user].append(order_id(user, request.client_order_id or f"request/{request_id(user, key)}"))
        name, value, headers = _record(self._envelope(request, key, user))
        return name, self._older(value) if self._chance.random() < 0.1 else value, headers

    def _about(self, user: str, order: str, key: str) -> Record:
        """A request about an order: its owner's, or one from inside, whose id follows from what it is."""
        match self._chance.choice(["cancel", "trigger", "trigger", "trigger", "expiry", "expiry", "revocation"]):
            case "trigger":
                sequence = self._chance.choice(sorted(PRICES))
                request, rid = OrderTriggered(user, order, PRICES[sequence], sequence, self._begin + PRICED[sequence]), trigger_id(order, sequence)
            case "expiry":
                request, rid = OrderExpiryReached(user, order), expiry_id(order)
            case "revocation":
                request, rid = OrderRevoked(user, order, "asset-inactive"), revocation_id(order, "asset-inactive")
            case _:
                request, rid = OrderCancelRequested(user, order), request_id(user, key)
        return _record(replace(self._envelope(request, key, user), id=rid))

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
        match chance.choice(["deposit", "deposit", "deposit", "withdrawal", "buy", "buy", "sell", "fence", "wait", "wait", "wait"]):
            case "deposit":
                return Deposit(user, Decimal(chance.choice(["100.00", "250", "250", "0.01", "0.001"])), LimitStamp(Decimal(500)))
            case "withdrawal":
                return Withdrawal(user, Decimal(chance.choice(["30.00", "100", "0.01"])), LimitStamp(Decimal(150)))
            case "fence":
                return FenceRequested(user)
            case "wait":
                return self._waiting(user)
            case side:
                return self._order(user, f"market_{side}")

    def _waiting(self, user: str) -> OrderPlaced:
        """An order with a price of its own."""
        chance = self._chance
        order = self._order(user, chance.choice(["limit_buy", "limit_buy", "limit_buy", "limit_sell", "stop_loss_sell", "take_profit_sell"]))
        force: Any = chance.choice(["gtc", "gtc", "gtd", "gtd", "day", "ioc"])
        ends = self._begin + timedelta(seconds=chance.choice([2, 6, 9])) if force == "gtd" else None
        return replace(order, price=Decimal(chance.choice(["40", "50", "99"])), time_in_force=force, expires_at=ends)

    def _order(self, user: str, kind: str) -> OrderPlaced:
        chance = self._chance
        until = self._begin + timedelta(seconds=chance.choice([5, 600, 600]))
        quote = Quote(Decimal(chance.choice(["3.333", "50", "99.999999"])), chance.choice([1, 2]), self._begin, until)
        stamp = OrderStamp(quote, AssetFacts(8, Decimal("0.1"), True, chance.choice([0, 10])), Decimal(1000))
        name = chance.choice([None, None, "mine", "yours"])
        quantity = Decimal(chance.choice(["0.1", "0.5", "1", "0.33333333"]))
        return OrderPlaced(user, chance.choice(["BTC", "BTC", "ETH"]), kind, quantity, stamp, client_order_id=name)  # type: ignore[arg-type]


def _record(envelope: Envelope) -> Record:
    return envelope.key, envelope.value, tuple(envelope.headers())
