"""What the headers of a write call say: under which key it is one request for ever, and how long its caller waits for the outcome.

`Idempotency-Key` follows draft-ietf-httpapi-idempotency-key-header (a quoted string; the same without quotation marks is taken as well),
`Prefer` follows RFC 7240.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from litestar.params import Parameter

from infra.clock import Ids
from infra.http import Caller, JsonRequest, ProblemError
from infra.http_problems import REQUEST_ID

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
PREFER: Final = "Prefer"
KEY_PATTERN: Final = r"^[\x21-\x7e]{1,255}$"
WAIT_S_MAX: Final = 30
"""The longest wait for an outcome that a caller can ask for; more is cut to this."""
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\["\\])*"')
_PREFERENCE: Final = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?((?:\s*;[^,]*)?)\s*(?:,|$)')
_WAIT_DIGITS_MAX: Final = 9


@dataclass(frozen=True, slots=True)
class Preferences:
    """How a caller wants to be answered: at once, or after a wait in seconds of its own."""

    respond_async: bool = False
    wait_s: int | None = None

    def wait(self, default_s: float) -> float:
        """Seconds to wait for the outcome."""
        if self.wait_s is not None:
            return self.wait_s
        return 0 if self.respond_async else default_s

    def applied(self, *, asynchronously: bool) -> str:
        """The value of `Preference-Applied`; empty where nothing was preferred, or not followed."""
        followed = ["respond-async"] if self.respond_async and asynchronously else []
        return ", ".join(followed + ([f"wait={self.wait_s}"] if self.wait_s is not None else []))


@dataclass(frozen=True, slots=True)
class Call:
    """One write call of a user. `trace_id` is its X-Request-ID; `is_own_key` tells that the key came from the client, so this may be a repetition."""

    username: str
    trace_id: str
    key: str
    is_own_key: bool
    preferences: Preferences


KeyHeader = Annotated[
    str | None,
    Parameter(
        header=IDEMPOTENCY_KEY,
        description="Names this request: sent again under the same name it answers the first outcome. Made where missing, and told",
    ),
]
PreferHeader = Annotated[
    str | None, Parameter(header=PREFER, description="RFC 7240: `respond-async` for 202 at once, `wait=N` for a wait of up to N (at most 30) seconds")
]


class ReadCall:
    """Reads the call behind a request; the doors' provider of `call`. Raises the problem `invalid-header` for an unusable Idempotency-Key."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def __call__(self, request: JsonRequest, idempotency_key: KeyHeader = None, prefer: PreferHeader = None) -> Call:  # noqa: ARG002
        """The parameters stand here for the API's document; the values are taken from the request, in which a header may stand twice."""
        caller = read_caller(request)
        own = read_key(request.headers.getall(IDEMPOTENCY_KEY, []))
        preferences = read_preferences(", ".join(request.headers.getall(PREFER, [])))
        return Call(caller.username, request.scope["state"][REQUEST_ID], own or self._ids.new(), own is not None, preferences)


def read_caller(request: JsonRequest) -> Caller:
    """Who is behind a request to a route that is not public; the doors' provider of `caller`."""
    if request.user is None:
        raise ProblemError("unauthorized", "This route needs a caller.")
    return request.user


def read_key(values: Sequence[str]) -> str | None:
    """The key in the values of the header, of which there may be one; None where there is none."""
    if not values:
        return None
    text = values[0].strip()
    key = re.sub(r"\\(.)", r"\1", text[1:-1]) if _QUOTED.fullmatch(text) else text
    if len(values) > 1 or not re.fullmatch(KEY_PATTERN, key):
        raise ProblemError("invalid-header", "An Idempotency-Key is 1 to 255 visible ASCII characters.", pointer=f"#/header/{IDEMPOTENCY_KEY}")
    return key


def read_preferences(text: str) -> Preferences:
    """The preferences that this door knows. Of one that stands there twice the first counts (RFC 7240 section 2)."""
    found: dict[str, str] = {}
    for match in _PREFERENCE.finditer(text):
        found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
    wait = found.get("wait", "")
    known = wait.isascii() and wait.isdigit() and len(wait) <= _WAIT_DIGITS_MAX
    return Preferences("respond-async" in found, min(int(wait), WAIT_S_MAX) if known else None)
