"""The lines of a load file: CSV with a header, or NDJSON; each is checked as a whole before anything is sent. Columns: docs/load.md."""

import csv
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, Literal, Self, get_args

from pydantic import TypeAdapter, ValidationError

from schemas.bodies import MoveMoney, PlaceOrder
from schemas.requests import DUE_SIDES, USERNAME_PATTERN, ClientOrderId, OrderType, order_id

Format = Literal["csv", "ndjson"]

COLUMNS: Final = ("key", "username", "kind", "amount", "asset_id", "quantity", "client_order_id", "price", "time_in_force", "expires_at")
REQUIRED: Final = ("key", "username", "kind")
MONEY_KINDS: Final = ("deposit", "withdraw")
ORDER_KINDS: Final = get_args(OrderType)
CANCEL: Final = "cancel"
NEEDED: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(MONEY_KINDS, ("amount",)),
    **{kind: ("asset_id", "quantity", "price") if kind in DUE_SIDES else ("asset_id", "quantity") for kind in ORDER_KINDS},
    CANCEL: ("client_order_id",),
}
ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    **NEEDED,
    **{kind: (*NEEDED[kind], "client_order_id", "time_in_force", "expires_at") for kind in ORDER_KINDS},
}
KEY_PATTERN: Final = r"[A-Za-z0-9._:-]{1,200}"
LINE_CHARACTERS_MAX: Final = 10_000
_DECIMAL: Final = re.compile(r"Decimal\('([^']*)'\)")
_FOLDED: Final = {"username": str.lower, "kind": str.lower, "asset_id": str.upper, "time_in_force": str.lower}
_OF_ORDERS: Final = ("client_order_id", "price", "time_in_force", "expires_at")
"""Columns that go into an order's body where they are filled."""
_CLIENT_ORDER_ID: Final[TypeAdapter[str]] = TypeAdapter(ClientOrderId)


class LoadFileInvalid(ValueError):
    """The file as a whole cannot be read. The text names the line where there is one, and the rule."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request. `number` is the line of the file on which it begins; a money request has an amount, an order an asset and a quantity.

    A cancel has the `client_order_id` under which the same user placed the order.
    """

    number: int
    key: str
    username: str
    kind: str
    amount: str = ""
    asset_id: str = ""
    quantity: str = ""
    client_order_id: str = ""
    price: str = ""
    time_in_force: str = ""
    expires_at: str = ""

    @property
    def idempotency_key(self) -> str:
        """The same for this key of this user for ever, whatever file it stands in."""
        return f"load:{self.key}"

    @property
    def path(self) -> str:
        """Where it is posted to."""
        if self.kind == CANCEL:
            return f"/orders/{order_id(self.username, self.client_order_id)}/cancel"
        return f"/balance/{self.kind}" if self.kind in MONEY_KINDS else "/orders"

    @property
    def body(self) -> dict[str, str]:
        """What is posted."""
        if self.kind in MONEY_KINDS:
            return {"amount": self.amount}
        if self.kind == CANCEL:
            return {}
        body = {"asset_id": self.asset_id, "order_type": self.kind, "quantity": self.quantity}
        return body | {name: text for name in _OF_ORDERS if (text := getattr(self, name))}

    @property
    def digest(self) -> str:
        """Tells this content from another one under the same key."""
        return sha256("\n".join((self.username, self.path, json.dumps(self.body, sort_keys=True))).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that breaks rules: all of them, each as `column: rule`."""

    number: int
    faults: tuple[str, ...]

    def __str__(self) -> str:
        return f"line {self.number}, " + "; ".join(self.faults)


UNENDED: Final = "ends without a line break, so it may be cut off: a file that is whole ends with one"
"""A cut CSV can still be valid: of 1000.00 the beginning is an amount, too."""


def format_of(name: str, told: str = "") -> Format:
    """By the option where it is told, else by the suffix; standard input is NDJSON. LoadFileInvalid where neither tells."""
    suffix = told or ("ndjson" if name == "-" else Path(name).suffix.lower().lstrip("."))
    match suffix:
        case "csv":
            return "csv"
        case "ndjson" | "jsonl" | "jsonlines":
            return "ndjson"
    raise LoadFileInvalid(f"the format of {name} is not told by its suffix: name it .csv or .ndjson, or use --format")


def read_lines(source: IO[str], form: Format) -> Iterator[Line | BadLine]:
    """Every line of the file, in order, checked on its own and for the uniqueness of its key. LoadFileInvalid where it cannot be read on."""
    keys: dict[str, int] = {}
    for number, fields in _csv_rows(source) if form == "csv" else _ndjson_rows(source):
        checked = fields if isinstance(fields, BadLine) else _checked(number, fields)
        if isinstance(checked, Line) and (first := keys.setdefault(checked.key, number)) != number:
            checked = BadLine(number, (f"key: {checked.key} stands in line {first} already",))
        yield checked


def open_text(name: str) -> IO[str]:
    """The file, or standard input for `-`, as text: UTF-8, with or without a byte order mark. Other bytes become a sign that no rule lets through."""
    file = sys.stdin.fileno() if name == "-" else name
    return open(file, encoding="utf-8-sig", errors="replace", newline="", closefd=name != "-")


def _csv_rows(source: IO[str]) -> Iterator[tuple[int, Mapping[str, Any] | BadLine]]:
    lines = _Lines(source)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise LoadFileInvalid(f"line {number}: is not CSV: {error}") from None
        if row is None:
            break
        if not row or row == [""]:
            continue
        if header is None:
            header = _header(number, row)
        elif fault := _row_fault(row, header, lines.last):
            yield number, BadLine(number, (fault,))
        else:
            yield number, dict(zip(header, row, strict=True))
    if header is None:
        raise LoadFileInvalid("line 1: there is no header with the names of the columns")


class _Lines:
    """The lines of a file, of which it keeps the last one that was taken."""

    def __init__(self, source: IO[str]) -> None:
        self.last = ""
        self._left = _bounded(source)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        self.last = next(self._left)
        return self.last


def _row_fault(row: Sequence[str], header: Sequence[str], last: str) -> str:
    if len(row) != len(header):
        return f"has {len(row)} columns, the header has {len(header)}"
    return "" if last.endswith(("\n", "\r")) else UNENDED


def _header(number: int, row: list[str]) -> list[str]:
    names = [name.strip().lower() for name in row]
    for name in names:
        if name not in COLUMNS:
            raise LoadFileInvalid(f"line {number}, header: {name or 'an empty name'!r} is not a column; there are {', '.join(COLUMNS)}")
        if names.count(name) > 1:
            raise LoadFileInvalid(f"line {number}, header: {name!r} stands twice")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise LoadFileInvalid(f"line {number}, header: {', '.join(missing)} is missing")
    return names


def _ndjson_rows(source: IO[str]) -> Iterator[tuple[int, Mapping[str, Any] | BadLine]]:
    for number, text in enumerate(_bounded(source), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text, parse_float=_as_written, parse_int=_as_written, parse_constant=_as_written, object_pairs_hook=_without_twins)
        except json.JSONDecodeError as error:
            yield number, BadLine(number, (f"is not JSON: {error.msg} at character {error.pos + 1}",))
        except (ValueError, RecursionError) as error:
            yield number, BadLine(number, (str(error) or "is nested too deeply",))
        else:
            yield number, row if isinstance(row, dict) else BadLine(number, ("is not a JSON object",))


class _as_written(str):  # noqa: N801 - marks a number's text, exactly as it stood there
    __slots__ = ()


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, _ in pairs:
        if [other for other, _ in pairs].count(name) > 1:
            raise ValueError(f"{name}: stands twice")
    return dict(pairs)


def _bounded(source: IO[str]) -> Iterator[str]:
    for number, text in enumerate(iter(lambda: source.readline(LINE_CHARACTERS_MAX + 1), ""), 1):
        if len(text) > LINE_CHARACTERS_MAX:
            raise LoadFileInvalid(f"line {number}: has more than {LINE_CHARACTERS_MAX} characters")
        yield text


def _checked(number: int, fields: Mapping[str, Any]) -> Line | BadLine:
    """A line that breaks rules is told with all of them."""
    faults = [f"{name}: is not a column; there are {', '.join(COLUMNS)}" for name in fields if name not in COLUMNS]
    faults += [f"{name}: is neither text nor a number" for name in COLUMNS if not isinstance(fields.get(name) or "", str)]
    if faults:
        return BadLine(number, tuple(faults))
    texts = {name: _FOLDED.get(name, str)((fields.get(name) or "").strip()) for name in COLUMNS}
    line = Line(number, **texts)
    faults = [*_shape_faults(texts), *_body_faults(line)]
    return BadLine(number, tuple(faults)) if faults else line


def _shape_faults(texts: Mapping[str, str]) -> Iterator[str]:
    """Rules on which columns a line has, and on those that are not part of the request's body."""
    kind = texts["kind"]
    for name in COLUMNS:
        needed = name in REQUIRED or name in NEEDED.get(kind, ())
        if needed and not texts[name]:
            yield f"{name}: is missing"
        if texts[name] and name not in REQUIRED and name not in ALLOWED.get(kind, COLUMNS):
            yield f"{name}: a {kind} has none"
    if texts["key"] and not re.fullmatch(KEY_PATTERN, texts["key"]):
        yield f"key: {texts['key'][:50]!r} is not 1 to 200 letters, digits and . _ : -"
    if texts["username"] and not re.fullmatch(USERNAME_PATTERN, texts["username"]):
        yield f"username: {texts['username'][:50]!r} is not 6 to 30 letters, digits and _"
    if kind and kind not in NEEDED:
        yield f"kind: {kind[:50]!r} is not one of {', '.join(NEEDED)}"


def _body_faults(line: Line) -> Iterator[str]:
    """The API's own rules on the body, so that what is sent is not refused for its form."""
    needed = NEEDED.get(line.kind)
    if needed is None or not all(getattr(line, name) for name in needed):
        return
    try:
        if line.kind == CANCEL:
            _CLIENT_ORDER_ID.validate_python(line.client_order_id)
        else:
            (MoveMoney if line.kind in MONEY_KINDS else PlaceOrder).model_validate(line.body)
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            rule = _DECIMAL.sub(r"\1", fault["msg"].removeprefix("Value error, "))
            yield f"{fault['loc'][0] if fault['loc'] else 'client_order_id'}: {rule}"
