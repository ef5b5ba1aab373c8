"""Deposits and withdrawals."""

from decimal import Decimal
from typing import Any, Final

from litestar import Response, post
from litestar.openapi.datastructures import ResponseSpec

from command_api.call import Call
from command_api.outcome import Door
from infra.settings import Settings
from schemas.bodies import MoveMoney
from schemas.money import EXACT, currency_scale
from schemas.requests import Deposit, LimitStamp, Withdrawal
from schemas.views import CommandView, MoneyMoved

PENDING: Final = {202: ResponseSpec(CommandView, generate_examples=False, description="The wait ended before the outcome: ask for the command")}


@post("/balance/deposit", tags=["balance"], status_code=201, responses=PENDING)
async def deposit(data: MoveMoney, call: Call, door: Door, settings: Settings) -> Response[MoneyMoved]:
    """Pay in. 201 once the balance shows it."""
    return await door.submit(call, Deposit(call.username, _amount(data), LimitStamp(settings.deposit_day_limit), data.currency))


@post("/balance/withdraw", tags=["balance"], status_code=201, responses=PENDING)
async def withdraw(data: MoveMoney, call: Call, door: Door, settings: Settings) -> Response[MoneyMoved]:
    """Pay out, at most what is available. 201 once the balance shows it."""
    return await door.submit(call, Withdrawal(call.username, _amount(data), LimitStamp(settings.withdraw_day_limit), data.currency))


ROUTES: Final[tuple[Any, ...]] = (deposit, withdraw)


def _amount(data: MoveMoney) -> Decimal:
    """With the currency's decimals, however it was written."""
    return data.amount.quantize(Decimal((0, (1,), -currency_scale(data.currency))), context=EXACT)
