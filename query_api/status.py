"""What became of a command."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.params import Parameter

from infra.http import Caller, ProblemError
from query_api.fresh import CONSISTENCY_TOKEN
from query_api.given import GivenLedger
from schemas.commands import command_view, read_command_id
from schemas.views import CommandView, consistency_token

RETRY_AFTER_S: Final = 1
"""When to ask again for a command that is not decided yet."""


@dataclass(frozen=True, slots=True)
class CommandKey:
    """The key of command ids, derived from the system's secret."""

    key: bytes


@get("/commands/{command_id:str}", tags=["commands"], summary="Show a command")
async def command(
    command_id: Annotated[str, Parameter(description="As told by the answer to the command")],
    request: Request[Caller, Any, Any],
    ledger: GivenLedger,
    command_key: CommandKey,
) -> Response[CommandView]:
    """Whether a command is pending, parked, settled, refused or fenced, and its outcome; read from the ledger, so it is never behind."""
    username = request.user.username
    request_id = read_command_id(command_key.key, username, command_id)
    if request_id is None:
        raise ProblemError("not-found", "You have no such command.")
    entry = await ledger.entry(username, request_id)
    waits = entry is None and await ledger.waits(username, request_id)
    headers = {CONSISTENCY_TOKEN: consistency_token(username, entry.version)} if entry else {"Retry-After": str(RETRY_AFTER_S)}
    return Response(command_view(entry, command_id, waits=waits), headers=headers)


ROUTES: Final[tuple[Any, ...]] = (command,)
