"""Requests that go straight to the requests topic, for volume and for records that no door would write: repetitions, and ones that cannot be read."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from events.envelope import Envelope
from schemas.market import AssetFacts, Quote
from schemas.requests import AccountRequest, Deposit, LimitStamp, OrderPlaced, OrderStamp, OrderType, Withdrawal, encode_request, request_id, request_type
from tests.soak.evidence import POISON, REQUESTS, Promise

TICK_S: Final = 0.1
ACKNOWLEDGED_S: Final = 30.0
"""A record that is not acknowledged in this time is sent again, by a new producer: its client may be past saving."""
TICKS_AT_ONCE: Final = 100
REPEATED_SHARE: Final = 0.03
POISON_SHARE: Final = 0.004
_LIMIT: Final = LimitStamp(Decimal(10**9))
_FACTS: Final = AssetFacts(quantity_scale=8, minimum_quantity=Decimal("0.00000001"), is_active=True, fee_bps=10)

Sent = tuple[bytes, bytes | None, list[tuple[str, bytes]]]
"""Key, value and headers of a record."""


class Volume:
    """A producer of so many records a second over so many accounts."""

    def __init__(self, kafka: str, chance: Random, *, accounts: int, per_s: float) -> None:
        self._kafka = kafka
        self._chance = chance
        self._names = [f"vol_{chance.getrandbits(48):012x}" for _ in range(accounts)]
        self._per_s = per_s
        self._numbers: dict[str, int] = {}
        self._promises: dict[str, Promise] = {}
        self._last: list[Sent] = []
        self._producer: AIOKafkaProducer | None = None
        self.acknowledged = 0

    def promises(self) -> list[Promise]:
        """What the log promised, and what is not known."""
        return list(self._promises.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop; returns when every record is acknowledged, or was tried again for long enough."""
        self._producer = await self._connected()
        slots, due = asyncio.Semaphore(TICKS_AT_ONCE), 0.0
        try:
            async with asyncio.TaskGroup() as group:
                while not stop.is_set():
                    due += self._per_s * TICK_S
                    records = [record for _ in range(int(due)) for record in self._next()]
                    due -= int(due)
                    await slots.acquire()
                    group.create_task(self._sent(records)).add_done_callback(lambda _: slots.release())
                    await asyncio.sleep(TICK_S)
        finally:
            await self._producer.stop()

    def _next(self) -> Iterator[Sent]:
        draw = self._chance.random()
        name = self._chance.choice(self._names)
        if draw < POISON_SHARE:
            yield self._poison(name)
        elif draw < POISON_SHARE + REPEATED_SHARE and self._last:
            yield self._chance.choice(self._last)
        else:
            yield self._good(name)

    def _good(self, name: str) -> Sent:
        number = self._numbers.get(name, 0)
        self._numbers[name] = number + 1
        request, figure = self._request(name, number)
        rid = request_id(name, f"vol-{number}")
        self._promises[rid] = Promise(name, rid, type(request).__name__, figure, "unknown")
        envelope = Envelope(rid, "urn:cnop:soak", request_type(request), name, datetime.now(UTC), encode_request(request), rid, rid)
        sent = (envelope.key, envelope.value, envelope.headers())
        self._last = [*self._last[-50:], sent]
        return sent

    def _request(self, name: str, number: int) -> tuple[AccountRequest, Decimal]:
        draw = self._chance.random()
        if number == 0 or draw < 0.5:
            amount = Decimal(self._chance.randrange(1, 200_000)) / 100
            return Deposit(name, amount, _LIMIT), amount
        if draw < 0.75:
            amount = Decimal(self._chance.randrange(1, 100_000)) / 100
            return Withdrawal(name, amount, _LIMIT), amount
        quantity, now = Decimal(self._chance.randrange(1, 2_000_000)) / 10**8, datetime.now(UTC)
        quote = Quote(Decimal(50_000), 1, now, now + timedelta(seconds=30))
        side: OrderType = "market_buy" if self._chance.random() < 0.6 else "market_sell"
        return OrderPlaced(name, "BTC", side, quantity, OrderStamp(quote, _FACTS, Decimal(10**7))), quantity

    def _poison(self, name: str) -> Sent:
        """A record that can never be read, each time in another way."""
        key, value, headers = self._good(f"bad_{self._chance.getrandbits(48):012x}")
        del self._promises[dict(headers)["ce_id"].decode()], self._last[-1]  # neither promised nor repeated
        fields: dict[str, bytes] = dict(headers)
        match self._chance.randrange(7):
            case 0:
                value = b"{ not json"
            case 1:
                value = None
            case 2:
                fields["ce_type"] = b"cnop.account.Deposit.v9"
            case 3:
                key = name.encode()
            case 4:
                fields = {}
            case 5:
                fields["ce_id"] = b"not-an-id"
            case _:
                value = b'{"username":"someone_else","amount":"1","stamp":{"day_limit":"1"},"currency":"USD"}'
        return key, value, [*fields.items(), (POISON, b"1")]

    async def _sent(self, records: list[Sent]) -> None:
        """Hand over, in their order, and wait until the log has them; what it did not acknowledge is sent again, under the same ids."""
        while records:
            producer = self._producer
            assert producer is not None
            futures = []
            try:
                async with asyncio.timeout(ACKNOWLEDGED_S):
                    futures = [await producer.send(REQUESTS, value=value, key=key, headers=headers) for key, value, headers in records]
                    await asyncio.gather(*futures, return_exceptions=True)
            except (KafkaError, TimeoutError):
                pass
            done = [future.done() and not future.cancelled() and future.exception() is None for future in futures]
            self._acknowledge([record for record, is_there in zip(records, done, strict=False) if is_there])
            records = [record for number, record in enumerate(records) if number >= len(done) or not done[number]]
            if records:
                await self._replace(producer)

    def _acknowledge(self, records: list[Sent]) -> None:
        for _key, _value, headers in records:
            rid = dict(headers).get("ce_id", b"").decode()
            if rid in self._promises and POISON not in dict(headers):
                self.acknowledged += self._promises[rid].told != "accepted"
                self._promises[rid] = replace(self._promises[rid], told="accepted")

    async def _replace(self, dead: AIOKafkaProducer) -> None:
        if self._producer is dead:
            self._producer = await self._connected()
            await _stopped(dead)

    async def _connected(self) -> AIOKafkaProducer:
        while True:
            producer = AIOKafkaProducer(bootstrap_servers=self._kafka, enable_idempotence=True, acks="all", linger_ms=5, request_timeout_ms=10_000)
            try:
                await producer.start()
            except (KafkaError, OSError):
                await _stopped(producer)
                await asyncio.sleep(TICK_S)
            else:
                return producer


async def _stopped(producer: Any) -> None:
    try:
        async with asyncio.timeout(1.0):
            await producer.stop()
    except (KafkaError, TimeoutError, OSError, AssertionError):
        return
