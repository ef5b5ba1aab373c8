"""The store of people, on a real DynamoDB engine."""

import asyncio
import os
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest

from infra.dynamo import Dynamo, DynamoUnavailable
from infra.identity import (
    FAMILIES_MAX,
    REFRESH_LIFETIME,
    WRITE_ATTEMPTS_MAX,
    EmailTaken,
    IdentityStore,
    InvalidRefreshToken,
    NoSuchUser,
    RefreshFamilies,
    UsernameTaken,
)
from schemas.identity import Profile
from schemas.tables import IDENTITY, user_pk
from tests.fakes.ledger import FaultyDynamo

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


@pytest.fixture
def store(dynamo: Dynamo) -> IdentityStore:
    return IdentityStore(dynamo)


@pytest.fixture
def families(dynamo: Dynamo) -> RefreshFamilies:
    return RefreshFamilies(dynamo, os.urandom)


def someone(**changes: object) -> Profile:
    name = f"user_{uuid4().hex[:12]}"
    fields = {"username": name, "email": f"{name}@example.com", "first_name": "Ann", "last_name": "Lee", "created_at": NOW, "updated_at": NOW}
    return Profile.model_validate(fields | changes)


async def test_register_and_read(store: IdentityStore) -> None:
    """What was registered is what is read, optional fields and all; a name that nobody has gives nobody."""
    profile = someone(phone="15551234567", date_of_birth=date(1990, 2, 28), marketing_emails_consent=True)
    await store.register(profile, "hash")
    user = await store.user(profile.username)
    assert user is not None
    assert (user.profile, user.password_hash) == (profile, "hash")
    assert await store.profile("nobody_at_all") is None
    assert await store.user("nobody_at_all") is None


async def test_username_and_email_are_unique(store: IdentityStore) -> None:
    """A taken username or email refuses the registration as a whole; the username is told first."""
    first = someone()
    await store.register(first, "hash")
    with pytest.raises(UsernameTaken):
        await store.register(someone(username=first.username), "other")
    second = someone(email=first.email)
    with pytest.raises(EmailTaken):
        await store.register(second, "other")
    assert await store.profile(second.username) is None
    with pytest.raises(UsernameTaken):
        await store.register(someone(username=first.username, email=first.email), "other")


async def test_one_of_many_registers(store: IdentityStore) -> None:
    """Of several registrations of one name at once one gets through."""
    name = someone().username
    outcomes = await asyncio.gather(*(store.register(someone(username=name), f"hash {number}") for number in range(8)), return_exceptions=True)
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, UsernameTaken) for outcome in outcomes) == 7


async def test_change_of_email(store: IdentityStore) -> None:
    """A changed email frees the old one and takes the new one; a taken one changes nothing at all."""
    first, second = someone(), someone()
    await store.register(first, "hash")
    await store.register(second, "hash")
    with pytest.raises(EmailTaken):
        await store.update(first.username, {"email": second.email, "first_name": "Bea"}, NOW)
    assert await store.profile(first.username) == first

    later = NOW + timedelta(hours=1)
    changed = await store.update(first.username, {"email": "new." + first.email}, later)
    assert (changed.email, changed.updated_at, changed.created_at) == ("new." + first.email, later, NOW)
    await store.register(someone(email=first.email), "hash")
    with pytest.raises(EmailTaken):
        await store.register(someone(email=changed.email), "hash")


async def test_update_sets_and_clears(store: IdentityStore) -> None:
    """Named fields change, None clears one, the others and the password hash stay."""
    profile = someone(phone="15551234567")
    await store.register(profile, "hash")
    await store.update(profile.username, {"last_name": "Fox", "phone": None, "date_of_birth": date(1980, 1, 1)}, NOW)
    user = await store.user(profile.username)
    assert user is not None
    assert user.profile == profile.model_copy(update={"last_name": "Fox", "phone": None, "date_of_birth": date(1980, 1, 1)})
    assert user.password_hash == "hash"
    with pytest.raises(NoSuchUser):
        await store.update("nobody_at_all", {"last_name": "Fox"}, NOW)


async def test_concurrent_updates_lose_nothing(store: IdentityStore) -> None:
    """Two changes of different fields at once both hold."""
    profile = someone()
    await store.register(profile, "hash")
    await asyncio.gather(store.update(profile.username, {"first_name": "Bea"}, NOW), store.update(profile.username, {"last_name": "Fox"}, NOW))
    after = await store.profile(profile.username)
    assert after is not None
    assert (after.first_name, after.last_name) == ("Bea", "Fox")


async def test_rehash_once(store: IdentityStore) -> None:
    """A hash is replaced only where it is still the one that was checked."""
    profile = someone()
    await store.register(profile, "old")
    assert await store.rehash(profile.username, "old", "new")
    assert not await store.rehash(profile.username, "old", "other")
    user = await store.user(profile.username)
    assert user is not None
    assert user.password_hash == "new"


async def test_tokens_rotate(families: RefreshFamilies) -> None:
    """Each token is good once and gives the next."""
    name = someone().username
    token = await families.begin(name, str(uuid4()), NOW)
    for _ in range(3):
        following = await families.rotate(token.text, NOW)
        assert (following.username, following.family) == (name, token.family)
        assert following.text != token.text
        token = following


async def test_reuse_ends_the_family(families: RefreshFamilies) -> None:
    """A spent token ends its family, the newest token of it included, and says so; other families live on."""
    name = someone().username
    spent, other = await families.begin(name, str(uuid4()), NOW), await families.begin(name, str(uuid4()), NOW)
    newest = await families.rotate(spent.text, NOW)
    with pytest.raises(InvalidRefreshToken) as told:
        await families.rotate(spent.text, NOW)
    assert told.value.revoked == (name, spent.family)
    with pytest.raises(InvalidRefreshToken):
        await families.rotate(newest.text, NOW)
    await families.rotate(other.text, NOW)


async def test_one_of_many_rotates(families: RefreshFamilies) -> None:
    """Of several uses of one token at once at most one gets a new token, and the family is over."""
    token = await families.begin(someone().username, str(uuid4()), NOW)
    outcomes = await asyncio.gather(*(families.rotate(token.text, NOW) for _ in range(6)), return_exceptions=True)
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(won) == 1
    with pytest.raises(InvalidRefreshToken):
        await families.rotate(won[0].text, NOW)


async def test_end_of_a_family(families: RefreshFamilies) -> None:
    """A token is refused after logout, after the family's lifetime, and where it never was one; none of these revokes anything."""
    name = someone().username
    ended, old = await families.begin(name, str(uuid4()), NOW), await families.begin(name, str(uuid4()), NOW)
    await families.end(name, ended.family)
    await families.end(name, ended.family)
    for text, at in ((ended.text, NOW), (old.text, NOW + REFRESH_LIFETIME), ("nonsense", NOW), (f"{name}..x", NOW), ("a.b.c", NOW)):
        with pytest.raises(InvalidRefreshToken) as told:
            await families.rotate(text, at)
        assert told.value.revoked is None


async def test_families_are_bounded(families: RefreshFamilies) -> None:
    """A login too many ends the oldest family; expired ones are dropped."""
    name = someone().username
    tokens = [await families.begin(name, f"family-{number:03d}", NOW + timedelta(seconds=number)) for number in range(FAMILIES_MAX + 1)]
    with pytest.raises(InvalidRefreshToken):
        await families.rotate(tokens[0].text, NOW)
    await families.rotate(tokens[1].text, NOW)


async def test_no_secret_is_stored(dynamo: Dynamo, families: RefreshFamilies) -> None:
    """The table has no token, only its hash, and a time to live in seconds."""
    name = someone().username
    token = await families.begin(name, str(uuid4()), NOW)
    query = {"KeyConditionExpression": "pk = :pk", "ExpressionAttributeValues": {":pk": {"S": user_pk(name)}}}
    (item,) = (await dynamo.call("query", TableName=IDENTITY.name, **query))["Items"]
    assert token.text.rsplit(".", 1)[1] not in str(item)
    assert item["ttl"] == {"N": str(int((NOW + REFRESH_LIFETIME).timestamp()))}


async def test_a_write_that_came_through_counts_once(dynamo: Dynamo) -> None:
    """A transaction without an answer, or in conflict, is tried again: a registration that came through is no conflict with itself."""
    script = [("transact_write_items", "after"), ("transact_write_items", "before"), ("transact_write_items", "TransactionConflict")]
    store = IdentityStore(FaultyDynamo(dynamo, script))  # type: ignore[arg-type]
    profile = someone()
    await store.register(profile, "hash")
    assert not store._dynamo.script

    store = IdentityStore(FaultyDynamo(dynamo, script[:1]))  # type: ignore[arg-type]
    changed = await store.update(profile.username, {"email": "new." + profile.email}, NOW)
    assert changed.email == "new." + profile.email
    assert await store.profile(profile.username) == changed


async def test_an_absent_store_is_told(dynamo: Dynamo) -> None:
    """When the tries are over the caller is told that the store is away, and never that a name is taken."""
    store = IdentityStore(FaultyDynamo(dynamo, [("transact_write_items", "before")] * WRITE_ATTEMPTS_MAX))  # type: ignore[arg-type]
    profile = someone()
    with pytest.raises(DynamoUnavailable):
        await store.register(profile, "hash")
    await store.register(profile, "hash")
