"""The body of a request: one JSON object of bounded size, whose numbers lose no digit."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from litestar import Request
from litestar.datastructures import State

from infra.http_auth import Caller
from infra.http_problems import ProblemError

BODY_BYTES_MAX: Final = 64 * 1024
JSON: Final = "application/json"
_CHARSETS: Final = frozenset({"utf-8", "utf8"})


class JsonRequest(Request[Caller | None, Any, State]):
    """A request whose `json()` is exact and strict; handlers get it as `data: SomeModel`. `user` is the caller, or None on a public route."""

    _object: dict[str, Any] | None = None

    async def json(self) -> Any:
        """The body as an object: decimals as Decimal; None where there is no body.

        Raises ProblemError: 413 over 64 KiB (raised while reading, with or without Content-Length), 415 for another content type, 400
        for what is not one JSON object in UTF-8: damaged text, NaN, a key twice, another type at the top.
        """
        if self._object is None and (body := await self.body()):
            self._demand_json()
            self._object = parse_object(body)
        return self._object

    def _demand_json(self) -> None:
        media_type, options = self.content_type
        if media_type != JSON or options.get("charset", "utf-8").lower() not in _CHARSETS:
            raise ProblemError("unsupported-media-type", "The Content-Type of the body must be application/json, in UTF-8.")


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse one JSON object (RFC 8259) strictly; ProblemError `malformed-body` says what is wrong with it."""
    try:
        parsed = json.loads(
            body.decode(),
            parse_float=_exact,
            parse_constant=_no_constant,
            object_pairs_hook=_without_twins,
        )
        # Escapes can spell half of a surrogate pair, which no UTF-8 text can hold: it would break whoever writes it later.
        if b"\\u" in body:
            json.dumps(parsed, ensure_ascii=False, default=str).encode()
    except json.JSONDecodeError as error:
        raise ProblemError("malformed-body", f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    except UnicodeError:
        raise ProblemError("malformed-body", "The body is not UTF-8 text.") from None
    except RecursionError:
        raise ProblemError("malformed-body", "The body is nested too deeply.") from None
    except ValueError as error:
        raise ProblemError("malformed-body", f"The body is not JSON as it is accepted here: {error}.") from None
    if not isinstance(parsed, dict):
        raise ProblemError("malformed-body", "The body must be a JSON object.")
    return parsed


def _exact(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number is out of range") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return members
