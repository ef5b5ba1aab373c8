"""After a write was answered the very next read shows it, whoever else is busy."""

import asyncio
from decimal import Decimal

from tests.system.running import System, User, answered, refused

TIMES = 200
CALLERS = 8
READS_OF_A_DEPOSIT = ("/balance", "/balance/transactions", "/users/portfolio/summary", "/portfolio")
READS_OF_AN_ORDER = ("/orders", "/balance/asset/ETH", "/assets/ETH/transactions", "/portfolio", "/balance")


async def test_the_next_read_shows_it(system: System) -> None:
    """Two hundred times, eight callers at once: a deposit or an order that was answered 201 is in every read that follows."""

    async def caller(number: int) -> None:
        user = await system.user("1000.00")
        for turn in range(TIMES // CALLERS):
            await (deposit_and_look(user, turn) if (number + turn) % 2 else order_and_look(user, turn))

    await asyncio.gather(*(caller(number) for number in range(CALLERS)))


async def test_callers_of_one_account(system: System) -> None:
    """Eight callers at once on one account: each sees its own deposit, and none is lost."""
    user = await system.user()

    async def caller() -> None:
        for _ in range(TIMES // CALLERS):
            answer = await user.deposit("1.00")
            own = answered(answer, 201)["transaction_id"]
            page = await user.read("/balance/transactions", limit=100)
            assert own in {row["transaction_id"] for row in page["transactions"]}

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    assert await user.balance() == f"{TIMES}.00"
    assert [entry.version for entry in await system.entries(user.username)] == list(range(1, TIMES + 1))


async def test_tokens(system: System) -> None:
    """A read that presents a write's token says whether it shows that write; a version that there is not yet is told, or refused to the strict."""
    user, other = await system.user(), await system.user()
    token = (await user.deposit("5.00")).headers["Consistency-Token"]
    answer = await user.get("/balance", headers={"Consistency-Token": token})
    assert answered(answer, 200)["current_balance"] == "5.00"
    assert answer.headers["Consistency-Satisfied"] == "true"
    assert answer.headers["Consistency-Token"] == token
    refused(await other.get("/balance", headers={"Consistency-Token": token}), 400, "invalid-header", "#/header/Consistency-Token")
    refused(await user.get("/balance", headers={"Consistency-Token": "v1.x"}), 400, "invalid-header", "#/header/Consistency-Token")
    future = token.replace("v1.1.", "v1.99.")
    late = await user.get("/balance", headers={"Consistency-Token": future})
    assert (answered(late, 200)["version"], late.headers["Consistency-Satisfied"]) == (1, "false")
    strict = await user.get("/balance", headers={"Consistency-Token": future, "Prefer": "handling=strict"})
    refused(strict, 503, "projection-behind")
    assert int(strict.headers["Retry-After"]) >= 1


async def test_a_token_of_an_asynchronous_write(system: System) -> None:
    """The token in a settled command's answer is shown by the next read that presents it."""
    user = await system.user()
    command_id = answered(await user.deposit("5.00", Prefer="respond-async"), 202)["command_id"]
    while (answer := await user.get(f"/commands/{command_id}")).json()["state"] == "pending":
        pass
    balance = await user.get("/balance", headers={"Consistency-Token": answer.headers["Consistency-Token"]})
    assert (answered(balance, 200)["current_balance"], balance.headers["Consistency-Satisfied"]) == ("5.00", "true")


async def deposit_and_look(user: User, turn: int) -> None:
    moved = answered(await user.deposit(f"{turn + 1}.01"), 201)
    path = READS_OF_A_DEPOSIT[turn % len(READS_OF_A_DEPOSIT)]
    body = await user.read(path)
    match path:
        case "/balance":
            assert body["current_balance"] == moved["new_balance"]
        case "/balance/transactions":
            assert body["transactions"][0]["transaction_id"] == moved["transaction_id"]
        case _:
            assert body["cash_balance"] == moved["new_balance"]


async def order_and_look(user: User, turn: int) -> None:
    order = answered(await user.order("ETH", "0.001"), 201)["data"]
    path = READS_OF_AN_ORDER[turn % len(READS_OF_AN_ORDER)]
    body = await user.read(path)
    match path:
        case "/orders":
            assert body["data"][0] == order
        case "/assets/ETH/transactions":
            assert body["data"][0]["order_id"] == order["order_id"]
        case "/balance/asset/ETH":
            assert body["updated_at"] == order["created_at"]
        case "/portfolio":
            assert [line["asset_id"] for line in body["assets"]] == ["ETH"]
            assert body["last_updated"] == order["created_at"]
        case _:
            assert body["updated_at"] == order["created_at"]
    assert Decimal((await user.read(f"/orders/{order['order_id']}"))["data"]["filled_quantity"]) == Decimal("0.001")
