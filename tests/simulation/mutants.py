"""The program with one thing wrong at a time: a simulation is worth what it sees.

A mutant is made from the sources: pieces of text are replaced by others, and each must stand there exactly once, so that a mutant that no longer
means anything is told and not passed over.
"""

from tests.simulation.image import Image, Mutation

SETTLEMENT = "processors.settlement"
WORK = "processors.work"
DECIDE = "processors.domain.decide"
PARKING = "processors.parking"
RECORDS = "processors.records"
LEDGER = "infra.ledger"
PARKED = "infra.parked"
LANE = "events.lane"
CONSUMER = "events.consumer"
TRANSACTION = "events.transaction"

_SAME_PLACE = "if (entry.partition, entry.offset) == (read.logged.partition, read.logged.offset):\n                results"
_EMIT_FIRST = (
    "asyncio.ensure_future(self._ledger.write(writes)); from infra.ledger import Stored; outcomes, ahead = [Stored()] * len(decided), await _ahead(decided)"
)
_STORE = "handled = await self._loop.handle(requests) if requests else Handled()"
_COMMIT = "await self._transactions.commit(outgoing, {self._tp: next_offset}, self._loop.group)"
_UNKNOWN = "RETRIES.labels(cause).inc()\n            if cause != NEIGHBOUR:\n                work.forget()"
_REFUSE_ALL = (
    "from schemas.ledger import Lines, Refusal; "
    "work.entries.update((entry.request_id, replace(entry, refusal=Refusal('insufficient-funds', ''), postings=(), "
    "lines=Lines(entry.lines.counters))) for entry in decided.entries if entry.kind != 'FenceRequested')"
)

MUTANTS: dict[str, tuple[Mutation, ...]] = {
    # Settlement
    "no re-emit of a stored result": ((SETTLEMENT, _SAME_PLACE, _SAME_PLACE.replace("):\n", ") and entry.request_id not in work.found:\n")),),
    "no dedupe: a repeated request is answered again": ((SETTLEMENT, _SAME_PLACE, _SAME_PLACE.replace("if (entry.partition", "if True or (entry.partition")),),
    "emit before commit: results sent before the store answered": (
        (SETTLEMENT, "outcomes, ahead = await asyncio.gather(self._ledger.write(writes), _ahead(decided))", _EMIT_FIRST),
    ),
    "a conflict taken for a refusal": ((WORK, _UNKNOWN, _REFUSE_ALL),),
    "a conflict passed over": ((WORK, _UNKNOWN, "work.pending.clear()"),),
    "an unknown outcome taken as stored": ((WORK, "case Stored():", "case Stored() | Unknown():"),),
    "an unknown outcome taken as not stored, the cache kept": ((WORK, _UNKNOWN, "RETRIES.labels(cause).inc()"),),
    "an account that moved is not loaded again": ((WORK, "if moved:\n                work.forget()", "if False:\n                work.forget()"),),
    "an entry in the way is not taken in": ((WORK, "self.entries.update(entries)", "pass"),),
    "an order in the way is not taken in": ((WORK, "work.learn(dict(entries))\n            work.orders.update(orders)", "work.learn(dict(entries))"),),
    "results made from what was decided now, not from the entry": (
        (WORK, "work.learn(dict(entries))", "work.learn({entry.request_id: entry for entry in decided.entries if entry.request_id in entries})"),
    ),
    "results made from the current account": (
        (
            SETTLEMENT,
            "results.append(result_record(entry, read))",
            "results.append(result_record(replace(entry, version=work.account.version if work.account else entry.version), read))",
        ),
    ),
    "the same id twice in a fold": ((WORK, "fold[logged.request_id] = logged", "fold[str(len(fold))] = logged"),),
    "the last of the same id wins": (
        (WORK, "logged.request_id in on_the_way or logged.request_id in fold:\n            continue", "logged.request_id in on_the_way:\n            continue"),
    ),
    "results sent backwards": ((SETTLEMENT, "for read in batch:\n            work = works[", "for read in reversed(batch):\n            work = works["),),
    "another user's record is taken": ((RECORDS, "if request.username != envelope.subject:", "if False:"),),
    "an id that is no request id is taken": ((RECORDS, "if not _is_request_id(envelope.id):", "if False:"),),
    "an account's bug ends the process": ((DECIDE, "except Exception as raised:", "except ZeroDivisionError as raised:"),),
    "accounts of a closed partition stay known, and versions are not checked": (
        (SETTLEMENT, "self._known.closed(partition)", "pass"),
        (LEDGER, '"ConditionExpression": "#version = :loaded",', '"ConditionExpression": "#version > :before",'),
        (LEDGER, '{":loaded": {"N": str(version)}}', '{":before": {"N": "0"}}'),
    ),
    # Orders
    "a request that found nothing to do is dropped without a look": (
        (WORK, "{entry_sk(logged.request_id) for logged in self.passed}", "{entry_sk(f'no {logged.request_id}') for logged in self.passed}"),
    ),
    "orders that requests name are not read": (
        (WORK, "names = {logged.request.order_id for logged in requests if isinstance(logged.request, NAMES_ORDER)}", "names = set()"),
    ),
    "a request that was passed over counts as on its way": (
        (
            WORK,
            "work.passed += done.passed\n        return None",
            "work.pending = [one for one in work.pending if one not in done.passed]\n        return None",
        ),
    ),
    # That an order's time is asked of the request's own record, and that a changed order is in the way of a write, is seen too seldom here:
    # tests/settlement/test_orders.py tries both.
    "an order that was there is written as a new one": ((WORK, "decided.orders, decided.replaces, decided.days)", "decided.orders, {}, decided.days)"),),
    # Ledger
    "no version check": (
        (LEDGER, '"ConditionExpression": "#version = :loaded",', '"ConditionExpression": "#version > :before",'),
        (LEDGER, '{":loaded": {"N": str(version)}}', '{":before": {"N": "0"}}'),
    ),
    "an entry or order may be written over": ((LEDGER, '"Item": entry_item(entry), **ABSENT}', '"Item": entry_item(entry)}'),),
    "an order may be written over": (
        (LEDGER, '"Item": order_item(write.account.username, order), **condition}', '"Item": order_item(write.account.username, order)}'),
    ),
    "a neighbour's failure taken as one's own": (
        (LEDGER, 'return Unknown(next((code for code in codes if code != "None"), NEIGHBOUR))', 'return Failed("a neighbour\'s")'),
    ),
    "a neighbour's failure taken for stored": ((LEDGER, 'return Unknown(next((code for code in codes if code != "None"), NEIGHBOUR))', "return Stored()"),),
    "no answer taken for stored": ((LEDGER, "return [Unknown(str(error))] * len(shares)", "return [Stored()] * len(shares)"),),
    "no answer taken for a neighbour's failure, the cache kept": (
        (LEDGER, "return [Unknown(str(error))] * len(shares)", "return [Unknown(NEIGHBOUR)] * len(shares)"),
    ),
    # The lane
    "commit offsets first": ((LANE, _COMMIT, f"await self._transactions.commit([], {{self._tp: next_offset}}, self._loop.group)\n                {_COMMIT}"),),
    "results first, offsets in a transaction of their own": (
        (LANE, _COMMIT, f"await self._transactions.commit(outgoing, {{}}, self._loop.group)\n                {_COMMIT.replace('outgoing', '[]')}"),
    ),
    "offsets before the store": (
        (LANE, _STORE, f"await self._transactions.commit([], {{self._tp: batch[-1].offset + 1}}, self._loop.group)\n        {_STORE}"),
    ),
    "a transactional id for the process": (
        (LANE, 'transactional_id=f"{loop.group}-{tp.partition}"', 'transactional_id=f"{loop.member}-{id(client)}-{tp.partition}"'),
    ),
    "no seek after fencing": ((LANE, "self._client.seek(self._tp, begin)", "pass"),),
    "the committed offset read before fencing": (
        (
            LANE,
            "await self._transactions.open()\n            self._committed = await self._client.committed(self._tp)\n            begin",
            "self._committed = await self._client.committed(self._tp)\n            await self._transactions.open()\n            begin",
        ),
    ),
    "records fetched before the seek kept": (
        (
            LANE,
            "async with asyncio.timeout(self._loop.bounds.open_s):\n            await self._transactions.open()\n            self._committed = ",
            (
                "self._early = (await self._client.getmany(self._tp, timeout_ms=50, max_records=6)).get(self._tp)\n"
                "        async with asyncio.timeout(self._loop.bounds.open_s):\n            await self._transactions.open()\n            self._committed = "
            ),
        ),
        (LANE, "batch: list[ConsumerRecord] = []", "batch: list[ConsumerRecord] = list(self.__dict__.pop('_early', None) or [])"),
    ),
    "a dead letter dropped": ((LANE, "[(letter.key, letter.value, letter.headers()) for letter in letters]", "[]"),),
    "a dead letter after the offset, in a transaction of its own": (
        (
            LANE,
            _COMMIT,
            (
                "await self._transactions.commit(outgoing[:2], {self._tp: next_offset}, self._loop.group)\n"
                "                await self._transactions.commit(outgoing[2:], {}, self._loop.group)"
            ),
        ),
    ),
    "results and requests after one another, not in one transaction": (
        (
            LANE,
            _COMMIT,
            f"await self._transactions.commit(outgoing[1:2], {{}}, self._loop.group)\n                {_COMMIT.replace('outgoing', '[outgoing[0], outgoing[2]]')}",  # noqa: E501 - code as it stands
        ),
    ),
    "a transaction without an answer taken for failed": ((LANE, "return bool(committed == next_offset)", "return False"),),
    "a transaction without an answer taken for committed": ((LANE, "return bool(committed == next_offset)", "return True"),),
    "another owner's offset not noticed": ((LANE, "if committed not in (next_offset, self._committed):", "if False:"),),
    "continue after fencing": (
        (LANE, "except TransactionFailed as error:", "except (TransactionFailed, Fenced) as error:"),
        (LANE, "if committed not in (next_offset, self._committed):", "if False:"),
    ),
    "the offset of the batch's last record, not the one after": (
        (LANE, "await self._publish(handled, letters, batch[-1].offset + 1)", "await self._publish(handled, letters, batch[-1].offset)"),
    ),
    "results in another partition": (
        (TRANSACTION, "await producer.send_batch(batch, topic, partition=self._partition)", "await producer.send_batch(batch, topic, partition=0)"),
    ),
    "batches in hand of a revoked partition are left running": (
        (CONSUMER, "await self._consumer.close_lanes(self._consumer.revoke_s)", "self._consumer._lanes = {}"),
        (LANE, 'transactional_id=f"{loop.group}-{tp.partition}"', 'transactional_id=f"{loop.member}-{id(client)}-{tp.partition}"'),
    ),
    "the next batch before the last one's transaction": (
        (
            LANE,
            "while batch := await self._take():\n                await self._settle(batch)",
            "while batch := await self._take():\n                self._running = asyncio.ensure_future(self._settle(batch))",
        ),
    ),
    # Transactions
    "abort after fencing": (
        (
            TRANSACTION,
            "if _is_fencing(error):\n                raise Fenced",
            "if _is_fencing(error):\n                await producer.abort_transaction()\n                raise Fenced",
        ),
    ),
    "no waiting for the commit": ((TRANSACTION, "await producer.commit_transaction()", "asyncio.ensure_future(producer.commit_transaction())"),),
    # Parking
    "a parked request overtaken by a later one": ((WORK, "if account is None or account.parked or self.lookups", "if account is None or self.lookups"),),
    "a parked account's requests dropped": (
        (PARKING, "if self._is_stored(work, await self._store.put_waiting(work.username, head.version, waiting)):", "if True:"),
    ),
    "a drain emits twice": (
        (
            PARKING,
            "work.told[read.logged.offset] = [*results, result_record(entry, read)]",
            "work.told[read.logged.offset] = [*results, *results, result_record(entry, read)]",
        ),
    ),
    "a drained request's own record tells it too": (
        (SETTLEMENT, "if entry is None or entry.drained_by:\n                continue", "if entry is None:\n                continue"),
    ),
    "a drain deletes before commit": (
        (
            SETTLEMENT,
            "return Handled(results, [request for work in works.values() for request in work.asked], self._after(works))",
            "after = self._after(works)\n        if after:\n            await after()\n        return Handled(results, [request for work in works.values() for request in work.asked])",  # noqa: E501 - code as it stands
        ),
    ),
    "a drain goes on from the parking each time": (
        (PARKING, "after=parked.before, limit=work.drain_max + 1", "after=parked.offset - 1, limit=work.drain_max + 1"),
    ),
    "parking without a version condition": (
        (
            PARKED,
            '            **_at(username, ACCOUNT_SK),\n            "UpdateExpression"',
            '            "TableName": LEDGER.name,\n            "Key": _at(username, ACCOUNT_SK)["Key"],\n            "UpdateExpression"',
        ),
        (PARKED, '            "ConditionExpression": condition["ConditionExpression"],\n', ""),
    ),
    # That an account is parked when a request is put to wait is held twice: a request with an entry does not wait either, and whoever made the
    # account active again has left one. So that condition alone cannot be missed here; tests/contract/test_parked.py tries it on the store.
    "waiting without a look for the entry": ((PARKED, "for request_id in {one.request_id: None for one in waiting}]", "for request_id in ()]"),),
    "unparked before the last": ((PARKING, "goes_on = len(waiting) > work.drain_max and step.cause is None", "goes_on = False"),),
    "no next step of draining": ((PARKING, "if entry.parking and entry.parking.goes_on:", "if False:"),),
    "the next step of draining under a new name each time": (
        (PARKING, "work.asked.append(next_drain(entry, read))", "work.asked += [next_drain(entry, read)] * 2"),
    ),
    "a drain's results not told again": ((PARKING, "await self._tell_again(work, read, entry)", "pass"),),
    "a parking not told": (
        (PARKING, "work.told[logged.offset] = [result_record(entry, read)]", "pass"),
        (PARKING, "if parked.offset in {logged.offset for logged in run} and parked.offset not in work.told:", "if False:"),
    ),
    "a parking not told again": ((PARKING, "if parked.offset in {logged.offset for logged in run} and parked.offset not in work.told:", "if False:"),),
    "draining out of order": ((PARKING, "for one in waiting:\n        try:", "for one in reversed(waiting):\n        try:"),),
}

SEEN_AT: dict[str, int] = {
    "an account that moved is not loaded again": 274,
    "an id that is no request id is taken": 12,
    "a request that found nothing to do is dropped without a look": 249,
    "a request that was passed over counts as on its way": 249,
    "a transaction without an answer taken for failed": 91,
    "a drained request's own record tells it too": 175,
    "parking without a version condition": 58,
    "a drain's results not told again": 121,
}
"""Seeds of runs that told of these mutants, which few do: they are played first, so that the search for one is done once and not each time."""


def image_of(name: str) -> Image:
    """The mutant of that name."""
    return Image(name, MUTANTS[name])
