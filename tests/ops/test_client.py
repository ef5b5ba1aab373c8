"""The client: a write keeps its key through every retry, and ends in an outcome that says what is known."""

import pytest
from litestar import Response

from infra.local import ports
from ops.client import Client, LoginRefused, NewUser, Session
from tests.ops.stand_in import problem

USER = NewUser("trader_1", "Passw0rd!Passw0rd!", "t@example.com", "T", "R")


@pytest.fixture
async def client(api):
    async with Client(api.url, connections_max=4, retry_s=20) as client:
        await client.register(USER)
        yield client


@pytest.fixture
def session(client):
    return Session(USER.username, USER.password)


async def _write(client, session, **more):
    return await client.write(session, "/balance/deposit", {"amount": "5.00"}, "k1", **more)


async def test_a_settled_write(client, session, api):
    """201 is settled, with the body and the command's id; the body went out as it is."""
    outcome = await _write(client, session)
    assert (outcome.state, outcome.body, outcome.command_id, outcome.is_final) == ("settled", {"transaction_id": "k1"}, "cmd_k1", True)
    assert api.bodies == {"k1": {"amount": "5.00"}}
    assert outcome.seconds > 0


@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_a_refusal_is_final(client, session, api, status):
    """With its code, and without another try."""
    api.script["k1"] = [lambda: problem(status, "insufficient-funds")]
    outcome = await _write(client, session)
    assert (outcome.state, outcome.code, api.seen["k1"]) == ("refused", "insufficient-funds", 1)


@pytest.mark.parametrize(("status", "code"), [(503, "unavailable"), (503, "overloaded"), (429, "rate-limited"), (502, "x"), (503, "outcome-unknown")])
async def test_what_passes_is_tried_again_under_the_same_key(client, session, api, status, code):
    """Until it is settled."""
    api.script["k1"] = [lambda: problem(status, code, {"Retry-After": "0"})] * 3
    outcome = await _write(client, session)
    assert (outcome.state, api.seen["k1"], api.keys["trader_1"]) == ("settled", 4, ["k1"])


@pytest.mark.parametrize(
    ("answers", "ends"),
    [
        ([(503, "unavailable")], ("failed", "unavailable")),
        ([(429, "rate-limited")], ("failed", "rate-limited")),
        ([(503, "outcome-unknown")], ("unknown", "outcome-unknown")),
        ([(503, "outcome-unknown"), (503, "unavailable")], ("unknown", "unavailable")),
        ([(500, "internal")], ("unknown", "internal")),
        ([(503, "outcome-unknown"), (422, "asset-inactive")], ("unknown", "asset-inactive")),
    ],
)
async def test_without_an_outcome_it_is_told_whether_something_may_have_happened(api, client, session, answers, ends):
    """Failed only where the system took nothing at any try."""
    pause = [{"Retry-After": "0"}] * (len(answers) - 1) + [{"Retry-After": "60"}]
    api.script["k1"] = [lambda answer=answer, headers=headers: problem(*answer, headers) for answer, headers in zip(answers, pause, strict=True)]
    outcome = await _write(client, session)
    assert (outcome.state, outcome.code) == ends
    assert not outcome.is_final


async def test_a_refusal_by_settlement_is_final_after_an_unknown_try(api, client, session):
    """It names its command, so it is the outcome of this key."""
    api.script["k1"] = [lambda: problem(503, "outcome-unknown", {"Retry-After": "0"}), lambda: problem(422, "insufficient-funds", command_id="cmd_1")]
    outcome = await _write(client, session)
    assert (outcome.state, outcome.code, outcome.command_id) == ("refused", "insufficient-funds", "cmd_1")


async def test_no_connection_is_a_failure():
    """Nothing listens: nothing was taken."""
    async with Client(f"http://127.0.0.1:{ports.free()}", connections_max=1, retry_s=0.3) as client:
        outcome = await _write(client, Session("trader_1", "x", token="t"))
    assert (outcome.state, outcome.code) == ("failed", "no-answer")


@pytest.mark.parametrize(
    ("views", "ends"),
    [
        ([{"state": "pending"}, {"state": "pending"}, {"state": "settled", "outcome": {"transaction_id": "k1"}}], ("settled", "")),
        ([{"state": "parked"}, {"state": "refused", "code": "limit-exceeded"}], ("refused", "limit-exceeded")),
        ([{"state": "fenced"}], ("refused", "fenced")),
        ([{"state": "pending"}], ("unknown", "pending")),
    ],
)
async def test_a_202_is_followed_until_it_is_decided(api, client, session, views, ends):
    """Or until the deadline."""
    location = {"Location": "/api/v1/commands/cmd_9"}
    api.script["k1"] = [lambda: Response({}, status_code=202, headers=location)]
    api.commands["cmd_9"] = views
    outcome = await _write(client, session, follow_s=0.5 if ends[0] == "unknown" else 20)
    assert ((outcome.state, outcome.code), outcome.command_id) == (ends, "cmd_9")


async def test_an_expired_token_is_renewed(api, client, session):
    """By logging in again, under the same key."""
    await _write(client, session)
    api.expired.add(session.token)
    outcome = await client.write(session, "/balance/deposit", {"amount": "1"}, "k2")
    assert (outcome.state, api.logins["trader_1"], api.seen["k2"]) == ("settled", 2, 1)


async def test_a_wrong_password_is_told(client):
    """As such, and as a failed write; the password is nowhere in the text."""
    session = Session("trader_1", "Wrong-Passw0rd!!")
    with pytest.raises(LoginRefused, match="trader_1") as told:
        await client.log_in(session)
    outcome = await _write(client, session)
    assert (outcome.state, outcome.code) == ("failed", "login-failed")
    assert "Wrong" not in f"{told.value}{outcome}{session}{USER}"


async def test_registering_twice(client):
    """The second time it is told that the user is there."""
    assert not await client.register(USER)
