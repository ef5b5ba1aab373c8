"""Users over HTTP: registering, logging in and out, tokens, the own profile."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from tests.system.running import API, PASSWORD, System, answered, refused

PROFILE = {"username", "email", "first_name", "last_name", "phone", "date_of_birth", "marketing_emails_consent", "created_at", "updated_at"}


def fresh_name() -> str:
    return f"n_{uuid4().hex[:20]}"


async def test_register_and_read_the_profile(system: System) -> None:
    """A registration is answered with the agreed sentence; name and address are kept in lower case, and so is every given field."""
    name = fresh_name()
    more = {"phone": "+49 (30) 1234-567", "date_of_birth": "1990-02-28", "marketing_emails_consent": True, "first_name": "Anne-Marie", "last_name": "O'Neil"}
    answer = await system.register(name.upper(), email=f"{name.upper()}@Example.com", **more)
    assert answered(answer, 201) == {"message": "User registered successfully"}
    tokens = await system.login(name)
    profile = answered(await system.http.get(f"{API}/auth/profile", headers={"Authorization": f"Bearer {tokens['access_token']}"}), 200)
    assert profile.keys() == PROFILE
    assert profile | {"created_at": "", "updated_at": ""} == {
        "username": name,
        "email": f"{name}@example.com",
        "first_name": "Anne-Marie",
        "last_name": "O'Neil",
        "phone": "49301234567",
        "date_of_birth": "1990-02-28",
        "marketing_emails_consent": True,
        "created_at": "",
        "updated_at": "",
    }
    assert profile["created_at"] == profile["updated_at"]
    assert profile["created_at"].endswith("Z")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "short"),
        ("username", "a" * 31),
        ("username", "has space"),
        ("username", "<script>"),
        ("username", None),
        ("email", "no-at-sign"),
        ("email", "two@@example.com"),
        ("email", None),
        ("password", "Short-9"),
        ("password", "lower-case-only-9"),
        ("password", "UPPER-CASE-ONLY-9"),
        ("password", "No-Digit-In-Here"),
        ("password", "NoOtherSign99999"),
        ("password", f"Aa-9{'x' * 125}"),
        ("password", None),
        ("first_name", "<b>Ann</b>"),
        ("first_name", ""),
        ("first_name", "x" * 51),
        ("last_name", "javascript:alert(1)"),
        ("last_name", "L33"),
        ("phone", "12345"),
        ("phone", "1234567890123456"),
        ("phone", "<i>0123456789</i>"),
        ("date_of_birth", "2020-01-01"),
        ("date_of_birth", "1890-01-01"),
        ("date_of_birth", "01.02.1990"),
        ("date_of_birth", "1990-13-01"),
        ("marketing_emails_consent", "perhaps"),
        ("is_admin", True),
        ("user_id", "x"),
    ],
)
async def test_register_names_the_wrong_field(system: System, field: str, value: Any) -> None:
    """Each rule is told with the pointer of its field, markup and unknown fields included, and the value is not told back."""
    name = fresh_name()
    answer = await system.register(**({"username": name, "email": f"{name}@example.com"} | {field: value}))
    refused(answer, 422, "validation-failed", f"/{field}")
    if field == "password" and value:
        assert value not in answer.text


async def test_register_tells_all_fields_at_once(system: System) -> None:
    """Several faults are one answer."""
    body = {"username": "x", "email": "x", "password": "x", "first_name": "<", "last_name": "", "more": 1}
    answer = await system.http.post(f"{API}/auth/register", json=body)
    refused(answer, 422, "validation-failed", "/username", "/email", "/password", "/first_name", "/last_name", "/more")


async def test_names_and_addresses_are_unique(system: System) -> None:
    """A taken name or address is 409, in any case of letters; of many at once one wins."""
    user = await system.user()
    refused(await system.register(user.username.upper(), email="other@example.com"), 409, "username-taken", "/username")
    refused(await system.register(fresh_name(), email=f"{user.username.upper()}@example.com"), 409, "email-taken", "/email")
    name = fresh_name()
    answers = await asyncio.gather(*(system.register(name, email=f"{number}.{name}@example.com") for number in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]


async def test_login(system: System) -> None:
    """Tokens at the top level; the access token names its owner, and is not to be kept by anybody between."""
    user = await system.user()
    answer = await system.http.post(f"{API}/auth/login", json={"username": user.username.upper(), "password": PASSWORD})
    tokens = answered(answer, 200)
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 3600)
    assert answer.headers["Cache-Control"] == "no-store"
    claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["exp"] - claims["iat"]) == (user.username, 3600)


async def test_login_tells_nothing_of_names(system: System) -> None:
    """A wrong password and an unknown name get the same answer but for the request id."""
    user = await system.user()
    told = []
    for name in (user.username, fresh_name()):
        body = refused(await system.http.post(f"{API}/auth/login", json={"username": name, "password": "Wrong-Password-1"}), 401, "invalid-credentials")
        told.append({key: value for key, value in body.items() if key != "request_id"})
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"username": "short", "password": PASSWORD}, ["/username"]),
        ({"username": "long_enough", "password": "Short-9"}, ["/password"]),
        ({"username": "long_enough"}, ["/password"]),
        ({}, ["/username", "/password"]),
        ({"username": "long_enough", "password": PASSWORD, "otp": "1"}, ["/otp"]),
        ({"username": 123456, "password": PASSWORD}, ["/username"]),
    ],
)
async def test_malformed_logins(system: System, body: dict[str, Any], pointers: list[str]) -> None:
    """What cannot be a name or a password is 422 and not a failed login."""
    refused(await system.http.post(f"{API}/auth/login", json=body), 422, "validation-failed", *pointers)


async def test_guesses_are_bounded(system: System) -> None:
    """After ten logins of a user in a minute there is 429 with Retry-After, also for the right password and whatever address a client claims."""
    user = await system.user()
    login = {"username": user.username, "password": "Wrong-Password-1"}
    for number in range(9):  # the tenth was the login of the user just made
        answer = await system.http.post(f"{API}/auth/login", json=login, headers={"X-Forwarded-For": f"10.0.0.{number}"})
        refused(answer, 401, "invalid-credentials")
        assert "login" in answer.headers["RateLimit-Policy"]
    answer = await system.http.post(
        f"{API}/auth/login", json=login | {"password": PASSWORD}, headers={"X-Forwarded-For": "10.9.9.9", "Forwarded": "for=1.2.3.4"}
    )
    assert refused(answer, 429, "rate-limited")["retryable"] is True
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    other = await system.user()
    assert other.tokens["access_token"]


async def test_update_profile(system: System) -> None:
    """Any of the fields changes, the rest stays; null clears what may be empty; the next read shows it."""
    user = await system.user()
    before = await user.read("/auth/profile")
    changes = {"first_name": "Zoë", "phone": "0123456789"}
    body = answered(await user.call("PUT", "/auth/profile", json=changes), 200)
    assert body.keys() == {"message", "user"}
    assert body["message"] == "Profile updated successfully"
    after = await user.read("/auth/profile")
    assert after == body["user"] == before | changes | {"updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert answered(await user.call("PUT", "/auth/profile", json={"phone": None}), 200)["user"]["phone"] is None


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ({"first_name": "<img src=x>"}, ["/first_name"]),
        ({"email": "nobody"}, ["/email"]),
        ({"phone": "1"}, ["/phone"]),
        ({"date_of_birth": "2999-01-01"}, ["/date_of_birth"]),
        ({"first_name": None}, ["/first_name"]),
        ({"username": "another_name"}, ["/username"]),
        ({"password": PASSWORD}, ["/password"]),
        ({}, [""]),
    ],
)
async def test_update_profile_names_the_wrong_field(system: System, changes: dict[str, Any], pointers: list[str]) -> None:
    """The rules of registering hold for changes; name and password are none of its fields."""
    user = await system.user()
    refused(await user.call("PUT", "/auth/profile", json=changes), 422, "validation-failed", *pointers)


async def test_a_new_address_frees_the_old_one(system: System) -> None:
    """An address of somebody else is 409; one that was given up can be taken."""
    first, second = await system.user(), await system.user()
    taken = {"email": f"{first.username}@example.com"}
    refused(await second.call("PUT", "/auth/profile", json=taken), 409, "email-taken", "/email")
    answered(await first.call("PUT", "/auth/profile", json={"email": f"new.{first.username}@example.com"}), 200)
    assert answered(await second.call("PUT", "/auth/profile", json=taken), 200)["user"]["email"] == taken["email"]


async def test_the_old_path_of_the_profile(system: System) -> None:
    """/auth/me answers the same and says that it is deprecated, until when, and what takes its place."""
    user = await system.user()
    answer = await user.get("/auth/me")
    assert answered(answer, 200) == await user.read("/auth/profile")
    assert answer.headers["Deprecation"].startswith("@")
    assert answer.headers["Sunset"].endswith("GMT")
    assert answer.headers["Link"] == f'<{API}/auth/profile>; rel="successor-version"'
    assert "Deprecation" not in (await user.get("/auth/profile")).headers


async def refresh(system: System, token: str) -> httpx.Response:
    return await system.http.post(f"{API}/auth/refresh", json={"refresh_token": token})


async def test_refresh_tokens_rotate(system: System) -> None:
    """A refresh gives new tokens of the same shape, and the new ones serve."""
    user = await system.user()
    body = answered(await refresh(system, user.tokens["refresh_token"]), 200)
    assert body.keys() == user.tokens.keys()
    assert body["refresh_token"] != user.tokens["refresh_token"]
    user.tokens = body
    await user.read("/balance")
    answered(await refresh(system, body["refresh_token"]), 200)


async def test_a_spent_refresh_token_ends_the_family(system: System) -> None:
    """Whoever uses a spent token again, owner or thief: all tokens of that login are refused from then on; another login goes on."""
    user = await system.user()
    other = await system.login(user.username)
    newest = answered(await refresh(system, user.tokens["refresh_token"]), 200)
    refused(await refresh(system, user.tokens["refresh_token"]), 401, "invalid-refresh-token")
    refused(await refresh(system, newest["refresh_token"]), 401, "invalid-refresh-token")
    for token in (user.tokens["access_token"], newest["access_token"]):
        answer = await system.http.get(f"{API}/balance", headers={"Authorization": f"Bearer {token}"})
        refused(answer, 401, "unauthorized")
    user.tokens = other
    await user.read("/balance")


async def test_two_refreshes_at_once(system: System) -> None:
    """Of one token at most one refresh succeeds."""
    user = await system.user()
    answers = await asyncio.gather(*(refresh(system, user.tokens["refresh_token"]) for _ in range(5)))
    assert sum(answer.status_code == 200 for answer in answers) <= 1
    assert {answer.status_code for answer in answers} <= {200, 401}


@pytest.mark.parametrize("token", ["x", "a.b.c", "u" * 512])
async def test_made_up_refresh_tokens(system: System, token: str) -> None:
    """Anything that was not issued is 401."""
    refused(await refresh(system, token), 401, "invalid-refresh-token")


async def test_logout(system: System) -> None:
    """From then on the access token and the refresh family are refused, at both doors; another login of the user goes on."""
    user = await system.user()
    other = await system.login(user.username)
    assert answered(await user.post("/auth/logout", {}), 200) == {"message": "Logged out successfully"}
    for method, path in (("GET", "/balance"), ("POST", "/balance/deposit"), ("POST", "/auth/logout")):
        answer = await user.call(method, path)
        refused(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    refused(await refresh(system, user.tokens["refresh_token"]), 401, "invalid-refresh-token")
    user.tokens = other
    await user.read("/balance")


async def test_logout_needs_an_object(system: System) -> None:
    """A missing body is 422, a field in it as well; the token serves on."""
    user = await system.user()
    refused(await user.call("POST", "/auth/logout"), 422, "validation-failed", "")
    refused(await user.post("/auth/logout", {"all": True}), 422, "validation-failed", "/all")
    await user.read("/balance")
