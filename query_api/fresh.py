"""Read your write: what a reader demands to see, and what each answer says about how fresh it is."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from litestar import Request, Response
from litestar.params import Parameter
from pydantic import BaseModel

from infra.cache import Shown, Views
from infra.http import Caller, ProblemError
from schemas.views import consistency_token as token_of
from schemas.views import read_consistency_token

T = TypeVar("T")

CONSISTENCY_TOKEN: Final = "Consistency-Token"  # noqa: S105 - a header's name
SATISFIED: Final = "Consistency-Satisfied"
CACHE_STATUS: Final = "Cache-Status"
BYPASSED: Final = "cnop; fwd=bypass"
"""RFC 9211: the answer was not taken from the cache, which is away."""
JSON: Final = "application/json"


TokenHeader = Annotated[
    str | None, Parameter(header=CONSISTENCY_TOKEN, description="From an earlier answer: this one is to show at least what that one showed, or did")
]
PreferHeader = Annotated[str | None, Parameter(header="Prefer", description="RFC 7240: `handling=strict` for 503 rather than less than the token asks for")]


@dataclass(frozen=True, slots=True)
class Asked:
    """Who reads, and the account version that the answer should show at least. `is_strict`: rather no answer than an older one."""

    username: str
    at_least: int | None = None
    is_strict: bool = False


def asked(request: Request[Caller, Any, Any], consistency_token: TokenHeader = None, prefer: PreferHeader = None) -> Asked:
    """What the headers of a read say. A 400 problem for a token that is malformed or another user's."""
    username = request.user.username
    preferences = {part.strip().lower() for part in (prefer or "").split(",")}
    if consistency_token is None:
        return Asked(username)
    version = read_consistency_token(username, consistency_token)
    if version is None:
        raise ProblemError("invalid-header", f"Not a {CONSISTENCY_TOKEN} of yours.", pointer=f"#/header/{CONSISTENCY_TOKEN}")
    return Asked(username, version, "handling=strict" in preferences)


async def fresh(views: Views, by: Asked, read: Callable[[], Awaitable[Shown[T]]]) -> Shown[T]:
    """Read; where that shows less than is asked for, wait for the view or load it, and read again.

    Raises what the ledger raises where that is needed, and the problem `projection-behind` where a strict reader would see less than asked for.
    """
    shown = await read()
    if by.at_least is not None and shown.version < by.at_least:
        await views.reach(by.username, by.at_least)
        shown = await read()
    if by.is_strict and by.at_least is not None and shown.version < by.at_least:
        raise ProblemError("projection-behind", f"The account is at version {shown.version}.", headers=_headers(by, shown))
    return shown


def answer(by: Asked, shown: Shown[Any], body: BaseModel) -> Response[bytes]:
    """The body, and how fresh it is."""
    return Response(body.model_dump_json().encode(), media_type=JSON, headers=_headers(by, shown))


def _headers(by: Asked, shown: Shown[Any]) -> Mapping[str, str]:
    headers = {CONSISTENCY_TOKEN: token_of(by.username, shown.version)}
    if by.at_least is not None:
        headers[SATISFIED] = "true" if shown.version >= by.at_least else "false"
    return headers | ({CACHE_STATUS: BYPASSED} if shown.bypassed else {})
