"""What a reader demands to see, and what each answer says about how fresh it is."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, NamedTuple, TypeVar

from litestar import Request, Response
from litestar.params import Parameter

from infra.cache import Shown, Views
from infra.http import Caller, ProblemError
from infra.position import ProjectionLag
from query_api.bodies import Bodies
from query_api.tags import Body, body_of, tagged
from schemas.views import AsOf, OfAccount, read_consistency_token
from schemas.views import consistency_token as token_of

T = TypeVar("T")

CONSISTENCY_TOKEN: Final = "Consistency-Token"  # noqa: S105 - a header's name
_TOKEN: Final = CONSISTENCY_TOKEN.lower().encode()
_READ_HERE: Final = (_TOKEN, b"prefer", b"if-none-match")
SATISFIED: Final = b"consistency-satisfied"
LAG: Final = b"projection-lag-ms"
BYPASSED: Final = (b"cache-status", b"cnop; fwd=bypass")
"""RFC 9211: the answer was not taken from the cache, which is away."""
ONE_CALLERS: Final = (b"cache-control", b"private, no-cache")
"""RFC 9111: only the caller's own client may keep it, and asks each time whether it is still good."""


TokenHeader = Annotated[
    str | None, Parameter(header=CONSISTENCY_TOKEN, description="From an earlier answer: this one is to show at least what that one showed, or did")
]
PreferHeader = Annotated[str | None, Parameter(header="Prefer", description="RFC 7240: `handling=strict` for 503 rather than less than the token asks for")]
TagsHeader = Annotated[str | None, Parameter(header="If-None-Match", description="ETags of answers that the caller has: 304 where one of them is still right")]


class Asked(NamedTuple):
    """Who reads, and the account version that the answer should show at least. `is_strict`: rather no answer than an older one.

    `tags`: what the caller has already, as he says it. `lag` tells how far the views are behind, `bodies` remembers what was answered.
    """

    username: str
    lag: ProjectionLag
    bodies: Bodies
    at_least: int | None = None
    is_strict: bool = False
    tags: str = ""


def asked(
    request: Request[Caller, Any, Any],
    lag: ProjectionLag,
    bodies: Bodies,
    *,
    consistency_token: TokenHeader = None,
    prefer: PreferHeader = None,
    if_none_match: TagsHeader = None,
) -> Asked:
    """What the headers of a read say. A 400 problem for a token that is malformed or another user's."""
    username, tags = request.user.username, if_none_match or ""
    if consistency_token is None:
        return Asked(username, lag, bodies, tags=tags)
    version = read_consistency_token(username, consistency_token)
    if version is None:
        raise ProblemError("invalid-header", f"Not a {CONSISTENCY_TOKEN} of yours.", pointer=f"#/header/{CONSISTENCY_TOKEN}")
    preferences = {part.strip().lower() for part in (prefer or "").split(",")}
    return Asked(username, lag, bodies, version, "handling=strict" in preferences, tags)


def asking(lag: ProjectionLag, bodies: Bodies) -> Callable[[Request[Caller, Any, Any]], Asked]:
    """`asked` as a function of the request alone."""

    def read(request: Request[Caller, Any, Any]) -> Asked:
        told = {name: value.decode("latin-1") for name, value in request.scope["headers"] if name in _READ_HERE}
        if not told:
            return asked(request, lag, bodies)
        token, prefer, tags = map(told.get, _READ_HERE)
        return asked(request, lag, bodies, consistency_token=token, prefer=prefer, if_none_match=tags)

    return read


async def fresh(views: Views, by: Asked, read: Callable[[], Awaitable[Shown[T]]]) -> Shown[T]:
    """Read; where that shows less than is asked for, wait for the view or load it, and read again.

    Raises what the ledger raises where that is needed, and the problem `projection-behind` where a strict reader would see less than asked for.
    """
    shown = await read()
    if by.at_least is not None and shown.version < by.at_least:
        await views.reach(by.username, by.at_least)
        shown = await read()
    if by.is_strict and by.at_least is not None and shown.version < by.at_least:
        headers = {name.decode(): value.decode() for name, value in await _headers(by, shown)}
        raise ProblemError("projection-behind", f"The account is at version {shown.version}.", headers=headers)
    return shown


async def answer(by: Asked, shown: Shown[Any], body: OfAccount, as_of: AsOf | None = None) -> Response[bytes]:
    """The body, of which account version it is, and how fresh that is; 304 where the caller has it already.

    `as_of`: the earlier version that the body shows, where that was asked for; the headers tell of the account as it is.
    """
    return await _told(by, shown, _encoded(body, as_of or AsOf.of(shown.version, shown.at)))


async def answer_again(by: Asked, shown: Shown[Any], of: str, basis: tuple[Any, ...], make: Callable[[], OfAccount]) -> Response[bytes]:
    """`answer`, with the body made only where it is not the one of the caller's last read of this.

    `of` names what is read, with its filters; `basis` is all that the body is made of beside the version that is shown.
    """
    body = by.bodies.of(by.username, of, (shown.version, shown.at, *basis), lambda: _encoded(make(), AsOf.of(shown.version, shown.at)))
    return await _told(by, shown, body)


async def _told(by: Asked, shown: Shown[Any], body: Body) -> Response[bytes]:
    return tagged(body, by.tags, [*await _headers(by, shown), ONE_CALLERS])


def _encoded(body: OfAccount, as_of: AsOf) -> Body:
    body.as_of = as_of
    return body_of(body.model_dump_json().encode())


async def _headers(by: Asked, shown: Shown[Any]) -> list[tuple[bytes, bytes]]:
    headers = [(_TOKEN, token_of(by.username, shown.version).encode())]
    if by.at_least is not None:
        headers.append((SATISFIED, b"true" if shown.version >= by.at_least else b"false"))
    lag_ms = 0 if shown.is_current else await by.lag.ms(by.username)
    if lag_ms is not None:
        headers.append((LAG, b"%d" % lag_ms))
    if shown.bypassed:
        headers.append(BYPASSED)
    return headers
