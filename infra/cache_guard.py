"""The views' layout in Redis: key names, fields, and the Lua that every change and every read of a view goes through.

A view is four keys under one hash tag:

* `g<generation>:{<username>}:acct` - hash: `username version at status counters`, `cash:<currency>`, `pos:<asset>`, `orders_held`, `rows_held`, and
  `stamp`, the time at which the server made the last change
* `…:orders` - hash: order id → order, and `…:order_index` - sorted set: order id by the version that placed it
* `…:tx` - list: rows of cash movements, newest entry first, inside an entry in the order of its legs

Beside them stands `{<username>}:lease`, a string without a meaning: from before the ledger is read for a view until any view of the account is changed. A
load makes a view that is not there only under the lease that was there before the ledger was read: so what is put then is not older than what anybody has
been shown meanwhile, also where that has been evicted again.

The newest orders and rows are kept, without holes, up to a maximum. The server may evict any one of the keys, so the account says how
many orders and rows belong to it: a view whose counts disagree is incomplete and counts as missing.

Where two generations live (`infra.generations`), one call of the guard changes both: a reader of either never sees the other one ahead.
What moves a view on is told on the channel `changes:<username>`: the result's record, or `loaded <version>`; and `anew <version>` of one that was wrong.

A release that names fields of the nouns kept here otherwise needs a new generation: fields that a reader does not find get their defaults.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, Generic, TypeVar
from zlib import crc32

from pydantic import TypeAdapter

from infra.cache_client import Call, Script
from infra.remembered import bytes_in
from schemas.instants import parse_rfc3339, rfc3339
from schemas.ledger import Account, CashLine, Counters, Order, Position
from schemas.results import Result
from schemas.rows import transactions_of
from schemas.views import Transaction

R = TypeVar("R")

ORDERS_HELD_MAX: Final = 200
ROWS_HELD_MAX: Final = 200
TTL_SPREAD: Final = 10
"""Lifetimes differ by up to a tenth from user to user, so that views filled together do not all expire together."""

PUT: Final = b"put"
OLD: Final = b"old"
GAP: Final = b"gap"
CHANGES: Final = "changes:"
"""Before the username: the channel on which it is told that a view has moved on."""
LOADED: Final = b"loaded "
"""Before the version: what is told of a view that was put as a whole."""
ANEW: Final = b"anew "
"""Before the version: what is told of a view that was put in the place of one of that version, which may have shown anything."""

GUARD: Final = Script(
    "view put",
    """
-- KEYS: the lease; for each generation that lives, the serving one first: account, orders, order index, rows
-- ARGV: 1 mode ('result' | 'replay' | 'whole' | 'anew'), 2 username, 3 version, 4 lifetime in s, 5 orders max, 6 rows max,
--       7 the channel to tell a result on or '', the lease of a load; 8 the result's record;
--       then a count and so many (field, value); a count and so many (order id, version that placed it, order); a count and so many rows
local mode, username, version = ARGV[1], ARGV[2], tonumber(ARGV[3])
local is_result = mode == 'result' or mode == 'replay'
local now = redis.call('TIME')
local stamp = now[1] .. '.' .. now[2]

-- What there is of a view, and what is to be done with it: 'old', 'gap', 'put', or 'none': a view that is not there and is not made by this.
local function look(account, orders, index, rows, is_serving)
  local known = redis.call('HMGET', account, 'username', 'version', 'orders_held', 'rows_held')
  local stored = known[1] == username and tonumber(known[2]) or nil
  local complete = stored
    and redis.call('ZCARD', index) == tonumber(known[3])
    and redis.call('HLEN', orders) == tonumber(known[3])
    and redis.call('LLEN', rows) == tonumber(known[4])
  if is_result then
    if complete and version <= stored then return stored, 'old' end
    if complete and version == stored + 1 then return stored, 'put' end
    if stored then return stored, 'gap' end
    -- What is shown again makes no view in the generation that is read: it would be an old one until all is shown. A load makes the newest.
    if is_serving and mode == 'replay' then return stored, 'none' end
    -- The first version needs no ledger: before it there was nothing.
    if version == 1 then return stored, 'put' end
    -- The generation that is not read need not have every view: one that is missing comes whole.
    return stored, is_serving and 'gap' or 'none'
  end
  -- Whoever waits for the load may have seen the newer one, and must not get this one for it.
  if stored and version < stored then return stored, 'gap' end
  -- The same where a newer one may have been here, and is gone.
  if not stored and is_serving and redis.call('GET', KEYS[1]) ~= ARGV[7] then return stored, 'gap' end
  if complete and version == stored and mode == 'whole' then return stored, 'old' end
  return stored, 'put'
end

local function put(account, orders, index, rows, stored)
  if not is_result or not stored then redis.call('DEL', account, orders, index, rows) end
  local at = 9
  local function take()
    at = at + 1
    return ARGV[at - 1]
  end
  for _ = 1, tonumber(take()) do
    local field = take()
    redis.call('HSET', account, field, take())
  end
  for _ = 1, tonumber(take()) do
    local id, placed, order = take(), take(), take()
    -- An old order that fell out of the recent ones must not come back: it would leave a hole behind it.
    if not is_result or tonumber(placed) == version or redis.call('ZSCORE', index, id) then
      redis.call('ZADD', index, placed, id)
      redis.call('HSET', orders, id, order)
    end
  end
  local over = redis.call('ZCARD', index) - tonumber(ARGV[5])
  if over > 0 then
    for _, id in ipairs(redis.call('ZRANGE', index, 0, over - 1)) do redis.call('HDEL', orders, id) end
    redis.call('ZREMRANGEBYRANK', index, 0, over - 1)
  end
  local count = tonumber(take())
  for row = at + count - 1, at, -1 do redis.call('LPUSH', rows, ARGV[row]) end
  if count > 0 then redis.call('LTRIM', rows, 0, tonumber(ARGV[6]) - 1) end
  redis.call('HSET', account, 'username', username, 'version', ARGV[3], 'stamp', stamp,
    'orders_held', redis.call('ZCARD', index), 'rows_held', redis.call('LLEN', rows))
  for _, key in ipairs({account, orders, index, rows}) do redis.call('EXPIRE', key, ARGV[4]) end
end

local plan = {}
for first = 2, #KEYS, 4 do
  local stored, todo = look(KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3], first == 2)
  if todo == 'gap' then return 'gap' end
  plan[first] = {stored, todo}
end
local answer = 'old'
for first = 2, #KEYS, 4 do
  local stored, todo = plan[first][1], plan[first][2]
  if todo == 'put' then
    put(KEYS[first], KEYS[first + 1], KEYS[first + 2], KEYS[first + 3], stored)
    answer = 'put'
    redis.call('DEL', KEYS[1])
    if first == 2 and (mode == 'anew' or not stored or version > stored) then
      local told = is_result and ARGV[8] or (mode == 'anew' and 'anew ' or 'loaded ') .. ARGV[3]
      redis.call('PUBLISH', 'changes:' .. username, told)
    end
  end
end
if is_result and ARGV[7] ~= '' then redis.call('PUBLISH', ARGV[7], ARGV[8]) end
return answer
""",
)
"""'put' where any generation was changed. One that has gone further than `version`, or misses what is before it, is a 'gap' of all, and nothing is done."""

LEASE_S: Final = 30
"""How long a load may take. One that takes longer is repeated."""

LEASE: Final = Script(
    "view lease",
    """
-- KEYS: the lease. ARGV: lifetime in s. Those who load at the same time share it. An account's next one is of a later microsecond.
local lease = redis.call('GET', KEYS[1])
if not lease then
  local now = redis.call('TIME')
  lease = now[1] .. '.' .. now[2]
end
-- After a first change a script may go on where memory is full: a view that is behind must give way then too.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], lease, 'EX', ARGV[1])
return lease
""",
)

HEAD: Final = ("stamp", "version", "username")
"""Fields of the account. Each change of a view gives it another stamp: lists that were read under an equal head are still the same."""

_HEAD: Final = f"""
-- KEYS: account, orders, order index, rows. ARGV: what is asked for
local head = redis.call('HMGET', KEYS[1], '{"', '".join(HEAD)}')
local at, counters, orders_held, rows_held = unpack(redis.call('HMGET', KEYS[1], 'at', 'counters', 'orders_held', 'rows_held'))
"""

READ_ORDER: Final = Script(
    "view order",
    f"""{_HEAD}
return {{head, at, counters, orders_held, redis.call('HLEN', KEYS[2]), {{redis.call('HGET', KEYS[2], ARGV[1])}}}}
""",
)

READ_ORDERS: Final = Script(
    "view orders",
    f"""{_HEAD}
local ids = redis.call('ZREVRANGE', KEYS[3], 0, ARGV[1] - 1)
local orders = #ids > 0 and redis.call('HMGET', KEYS[2], unpack(ids)) or {{}}
local held = redis.call('ZCARD', KEYS[3])
if redis.call('HLEN', KEYS[2]) ~= held then held = -1 end
return {{head, at, counters, orders_held, held, orders}}
""",
)

READ_ROWS: Final = Script(
    "view transactions",
    f"""{_HEAD}
return {{head, at, counters, rows_held, redis.call('LLEN', KEYS[4]), redis.call('LRANGE', KEYS[4], 0, ARGV[1] - 1)}}
""",
)


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """What a read script says of a list: its newest `rows`, and how many are `held`, at `version`, which was decided `at`. `size`: bytes it was read from."""

    version: int
    at: datetime
    counters: Counters
    held: int
    rows: list[R]
    size: int


class Layout:
    """Keys of views, and the guard's calls. `generations`: all that live, the serving one first."""

    def __init__(self, ttl_s: int) -> None:
        self._ttl_s = ttl_s

    def keys(self, username: str, generation: int) -> tuple[str, str, str, str]:
        """Account, orders, order index, rows: the order in which the scripts take them."""
        prefix = f"g{generation}:{{{username}}}"
        return f"{prefix}:acct", f"{prefix}:orders", f"{prefix}:order_index", f"{prefix}:tx"

    def result_call(self, result: Result, channel: str | None, record: bytes, generations: Sequence[int], *, again: bool = False) -> Call:
        """The guard's call for one result; its record goes to `channel` once the view shows it. `again`: it was shown before, and views of it may be gone."""
        lines = result.lines
        fields = _line_fields(lines.counters, lines.cash, lines.positions)
        fields["at"] = _quoted(rfc3339(result.at))
        if result.parking:
            fields["status"] = _quoted(result.parking.status)
            if result.version > 1:
                del fields["counters"]  # a parking tells none, and there are some
        orders = [lines.order] if lines.order else []
        head = ("replay" if again else "result", result.username, result.version, *self._bounds(result.username), channel or "", record)
        return Call(self._all_keys(result.username, generations), (*head, *_body(fields, orders, transactions_of(result))))

    def lease_call(self, username: str) -> Call:
        """The call of `LEASE` before an account is loaded."""
        return Call((self.lease(username),), (LEASE_S,))

    def lease(self, username: str) -> str:
        """Its key."""
        return f"{{{username}}}:lease"

    def whole_call(
        self, account: Account, orders: Sequence[Order], rows: Sequence[Transaction], generations: Sequence[int], lease: bytes, *, anew: bool = False
    ) -> Call:
        """The guard's call for a whole view, as it was loaded under a lease. `anew`: also in the place of one of the same version."""
        fields = _line_fields(account.counters, account.cash, account.positions)
        fields |= {"at": _quoted(rfc3339(account.at)), "status": _quoted(account.status)}
        head = ("anew" if anew else "whole", account.username, account.version, *self._bounds(account.username), lease, b"")
        return Call(self._all_keys(account.username, generations), (*head, *_body(fields, orders, rows)))

    def _all_keys(self, username: str, generations: Sequence[int]) -> tuple[str, ...]:
        return (self.lease(username), *(key for generation in generations for key in self.keys(username, generation)))

    def _bounds(self, username: str) -> tuple[int, int, int]:
        spread = crc32(username.encode()) % max(1, self._ttl_s // TTL_SPREAD)
        return self._ttl_s - spread, ORDERS_HELD_MAX, ROWS_HELD_MAX


def read_account(username: str, fields: Mapping[bytes, bytes]) -> Account | None:
    """An account from its hash; None where it is missing or another user's. ValueError or KeyError where it cannot be read."""
    if fields.get(b"username") != username.encode():
        return None
    document = b'{"username":"%b","version":%b,"at":%b,"status":%b,"counters":%b,"cash":{%b},"positions":{%b}}' % (
        username.encode(),
        fields[b"version"],
        fields[b"at"],
        fields.get(b"status", b'"active"'),
        fields[b"counters"],
        _members(fields, b"cash:"),
        _members(fields, b"pos:"),
    )
    account: Account = _adapter(Account).validate_json(document)
    return account


def read_page(username: str, head: Sequence[bytes | None], told: Sequence[Any], read: Callable[[bytes], R]) -> Page[R] | None:
    """A read script's answer, behind its head; None where the view is missing, incomplete or another user's. ValueError where it cannot be read."""
    (_stamp, version, owner), (at, counters, held, found, items) = head, told
    if version is None or owner != username.encode() or held is None or int(held) != found:
        return None
    rows = [read(item) for item in items if item is not None]
    return Page(int(version), read_at(at), _adapter(Counters).validate_json(counters), found, rows, bytes_in(items))


def read_at(text: bytes | None) -> datetime:
    """A time as it is kept. KeyError where there is none."""
    if text is None:
        raise KeyError("at")
    return parse_rfc3339(text.decode().strip('"'))


def read_order(text: bytes) -> Order:
    """An order as it is kept."""
    order: Order = _adapter(Order).validate_json(text)
    return order


def read_row(text: bytes) -> Transaction:
    """A cash movement as it is kept."""
    return Transaction.model_validate_json(text)


def _line_fields(counters: Counters, cash: Mapping[str, CashLine], positions: Mapping[str, Position]) -> dict[str, bytes]:
    fields = {"counters": _adapter(Counters).dump_json(counters)}
    fields |= {f"cash:{currency}": _adapter(CashLine).dump_json(line) for currency, line in cash.items()}
    return fields | {f"pos:{asset}": _adapter(Position).dump_json(line) for asset, line in positions.items()}


def _body(fields: Mapping[str, bytes], orders: Iterable[Order], rows: Iterable[Transaction]) -> list[str | bytes | int]:
    order_args = [part for order in orders for part in (order.order_id, order.created_version, _adapter(Order).dump_json(order, exclude_none=True))]
    row_args = [row.model_dump_json(exclude_none=True).encode() for row in rows]
    field_args = [part for pair in fields.items() for part in pair]
    return [len(fields), *field_args, len(order_args) // 3, *order_args, len(row_args), *row_args]


def _members(fields: Mapping[bytes, bytes], prefix: bytes) -> bytes:
    return b",".join(b'"%b":%b' % (name.removeprefix(prefix), value) for name, value in fields.items() if name.startswith(prefix))


def _quoted(text: str) -> bytes:
    return f'"{text}"'.encode()


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
