"""The fence: what a caller who was told `outcome-unknown` uses to make sure."""

from typing import Annotated, Any, Final

from litestar import Response, post
from litestar.params import Parameter

from command_api.balances import PENDING
from command_api.call import Call
from command_api.outcome import Door
from schemas.views import CommandView


@post("/commands/{command_id:str}/fence", tags=["commands"], status_code=200, responses=PENDING)
async def fence(command_id: Annotated[str, Parameter(description="As told by the answer to the command")], call: Call, door: Door) -> Response[CommandView]:
    """Fence a command: either its outcome is the answer, or it will never happen, whatever of it is still on its way. Takes no body."""
    return await door.fence(call, command_id)


ROUTES: Final[tuple[Any, ...]] = (fence,)
