"""People in `cnop-identity`: profiles with password hashes, unique usernames and email addresses, and families of refresh tokens.

A user is two items that change in one transaction: `USER#u / PROFILE`, and `EMAIL#e / OWNER`, which is there to make the address
unique. A login starts a family of refresh tokens, one item each; only SHA-256 of the token's 256 random bits is kept.
"""

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import stamina
from botocore.exceptions import ClientError

from infra.dynamo import Dynamo, DynamoUnavailable, Item, error_code, from_item, to_attribute
from schemas.identity import Profile
from schemas.tables import EMAIL_SK, IDENTITY, PROFILE_SK, REFRESH_PREFIX, TTL_ATTRIBUTE, email_pk, refresh_sk, user_pk

WRITE_ATTEMPTS_MAX: Final = 4
WRITE_WAIT_S_MAX: Final = 2.0
UPDATE_ATTEMPTS_MAX: Final = 5
"""Rounds of read, change and conditional put of one profile against concurrent changes of it."""
REFRESH_LIFETIME: Final = timedelta(days=30)
"""From the login: a rotation does not prolong a family."""
FAMILIES_MAX: Final = 20
"""Sessions of one user that can be refreshed at once; the next login ends the oldest. Logins at the same moment may exceed it until the next one."""
SECRET_BYTES: Final = 32
_PROFILE_FIELDS: Final = frozenset(Profile.model_fields)
_FAMILIES_PAGE: Final = 100


class UsernameTaken(ValueError):
    """Somebody has the username."""


class EmailTaken(ValueError):
    """Somebody else has the email address."""


class NoSuchUser(LookupError):
    """There is no user of that name."""


class InvalidRefreshToken(ValueError):
    """Not a token of a living family. `revoked` is (username, family) where it was a spent one, whose reuse has just ended the family."""

    def __init__(self, text: str, revoked: tuple[str, str] | None = None) -> None:
        super().__init__(text)
        self.revoked = revoked


@dataclass(frozen=True, slots=True)
class User:
    """A user with what a login is checked against."""

    profile: Profile
    password_hash: str


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A living token. `text` is the secret for its owner; the store does not keep it."""

    username: str
    family: str
    text: str


class IdentityStore:
    """Users. Every read is consistent; every write is all or nothing. DynamoUnavailable where the store does not answer."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def register(self, profile: Profile, password_hash: str) -> None:
        """Add a user. UsernameTaken or EmailTaken, in this order, where one is; nothing is written then."""
        puts = [_put_new(_user_item(profile, password_hash, revision=1)), _put_new(_email_item(profile.email, profile.username))]
        failed = await _transact(self._dynamo, puts)
        if 0 in failed:
            raise UsernameTaken(profile.username)
        if failed:
            raise EmailTaken(profile.email)

    async def user(self, username: str) -> User | None:
        """A user with the password hash, for a login."""
        item = await self._item(username)
        return User(_read_profile(item), str(item["password_hash"])) if item else None

    async def profile(self, username: str) -> Profile | None:
        """What a user sees of themself."""
        item = await self._item(username)
        return _read_profile(item) if item else None

    async def update(self, username: str, changes: Mapping[str, Any], at: datetime) -> Profile:
        """Change some fields of a profile (None clears one) and return it as it stands. NoSuchUser; EmailTaken, and nothing is changed then."""
        for _ in range(UPDATE_ATTEMPTS_MAX):
            item = await self._item(username)
            if item is None:
                raise NoSuchUser(username)
            before = _read_profile(item)
            after = Profile.model_validate({**before.model_dump(), **changes, "updated_at": at})
            if await self._replace(before, after, str(item["password_hash"]), int(item["revision"])):
                return after
        raise DynamoUnavailable("the profile kept changing")

    async def rehash(self, username: str, old_hash: str, new_hash: str) -> bool:
        """Replace a password hash by one of the same password with other parameters; False where it was changed meanwhile."""
        return await self._dynamo_if(
            "update_item",
            Key=_key(user_pk(username), PROFILE_SK),
            UpdateExpression="SET password_hash = :new ADD revision :one",
            ConditionExpression="password_hash = :old",
            ExpressionAttributeValues={":new": {"S": new_hash}, ":old": {"S": old_hash}, ":one": {"N": "1"}},
        )

    async def _item(self, username: str) -> dict[str, Any] | None:
        answer = await self._dynamo.call("get_item", TableName=IDENTITY.name, Key=_key(user_pk(username), PROFILE_SK), ConsistentRead=True)
        return from_item(answer["Item"]) if answer.get("Item") else None

    async def _replace(self, before: Profile, after: Profile, password_hash: str, revision: int) -> bool:
        actions = [_put_over(_user_item(after, password_hash, revision + 1), revision)]
        if after.email != before.email:
            actions += [_put_new(_email_item(after.email, after.username)), _delete_email(before.email, before.username)]
        failed = await _transact(self._dynamo, actions)
        if 0 not in failed and 1 in failed:
            raise EmailTaken(after.email)
        return not failed

    async def _dynamo_if(self, operation: str, **arguments: Any) -> bool:
        return await _conditional(self._dynamo, operation, **arguments)


class RefreshFamilies:
    """Refresh tokens, each good for one use. `chance(n)` gives n random bytes.

    A family dies by logout, by age, by being the oldest of too many, and by the reuse of a spent token: whoever holds the newest one may
    then be the thief, so both lose it.
    """

    def __init__(self, dynamo: Dynamo, chance: Callable[[int], bytes]) -> None:
        self._dynamo = dynamo
        self._chance = chance

    async def begin(self, username: str, family: str, at: datetime) -> RefreshToken:
        """Start a family with its first token, and end what is too much or too old."""
        await self._prune(username, at)
        token = self._new_token(username, family)
        expires_at = at + REFRESH_LIFETIME
        item = {
            **_key(user_pk(username), refresh_sk(family)),
            "token_hash": to_attribute(_hash(token.text)),
            "created_at": to_attribute(at),
            "expires_at": to_attribute(expires_at),
            TTL_ATTRIBUTE: to_attribute(int(expires_at.timestamp())),
        }
        await self._dynamo.call("put_item", TableName=IDENTITY.name, Item=item)
        return token

    async def rotate(self, text: str, at: datetime) -> RefreshToken:
        """Spend a token for the next one of its family. InvalidRefreshToken where it is not the newest token of a living family.

        Of several calls with the same token one at most gets through. After DynamoUnavailable the token may be spent.
        """
        username, family = _parse(text)
        token = self._new_token(username, family)
        spent = await _conditional(
            self._dynamo,
            "update_item",
            Key=_key(user_pk(username), refresh_sk(family)),
            UpdateExpression="SET token_hash = :new",
            ConditionExpression="token_hash = :old AND expires_at > :now",
            ExpressionAttributeValues={":new": to_attribute(_hash(token.text)), ":old": to_attribute(_hash(text)), ":now": to_attribute(at)},
        )
        if spent:
            return token
        raise await self._refused(username, family, text)

    async def end(self, username: str, family: str) -> None:
        """End a family: none of its tokens is good any more. Idempotent."""
        await self._dynamo.call("delete_item", TableName=IDENTITY.name, Key=_key(user_pk(username), refresh_sk(family)))

    async def _refused(self, username: str, family: str, text: str) -> InvalidRefreshToken:
        key = _key(user_pk(username), refresh_sk(family))
        answer = await self._dynamo.call("get_item", TableName=IDENTITY.name, Key=key, ConsistentRead=True)
        item = answer.get("Item")
        if item is None or item["token_hash"]["S"] == _hash(text):
            return InvalidRefreshToken("the family is over")
        # The family's name is random and stands in its own tokens only: who knows it holds one of them, so this is reuse, not a guess.
        await self.end(username, family)
        return InvalidRefreshToken("a spent token was used again: its family is revoked", (username, family))

    async def _prune(self, username: str, at: datetime) -> None:
        answer = await self._dynamo.call(
            "query",
            TableName=IDENTITY.name,
            KeyConditionExpression="pk = :pk AND begins_with(sk, :prefix)",
            ExpressionAttributeValues={":pk": {"S": user_pk(username)}, ":prefix": {"S": REFRESH_PREFIX}},
            ConsistentRead=True,
            Limit=_FAMILIES_PAGE,
        )
        families = sorted((from_item(item) for item in answer["Items"]), key=lambda item: str(item["created_at"]), reverse=True)
        now = to_attribute(at)["S"]
        for item in families[FAMILIES_MAX - 1 :] + [item for item in families[: FAMILIES_MAX - 1] if item["expires_at"] <= now]:
            await self.end(username, str(item["sk"]).removeprefix(REFRESH_PREFIX))

    def _new_token(self, username: str, family: str) -> RefreshToken:
        secret = urlsafe_b64encode(self._chance(SECRET_BYTES)).decode().rstrip("=")
        return RefreshToken(username, family, f"{username}.{family}.{secret}")


def _parse(text: str) -> tuple[str, str]:
    parts = text.split(".")
    if len(parts) != 3 or not all(parts):  # noqa: PLR2004 - username, family, secret
        raise InvalidRefreshToken("not a refresh token")
    return parts[0], parts[1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(pk: str, sk: str) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _user_item(profile: Profile, password_hash: str, revision: int) -> Item:
    fields = {**profile.model_dump(), "password_hash": password_hash, "revision": revision}
    attributes = {name: to_attribute(value.isoformat() if type(value) is date else value) for name, value in fields.items() if value is not None}
    return {**_key(user_pk(profile.username), PROFILE_SK), **attributes}


def _read_profile(item: Mapping[str, Any]) -> Profile:
    return Profile.model_validate({name: value for name, value in item.items() if name in _PROFILE_FIELDS})


def _email_item(email: str, username: str) -> Item:
    return {**_key(email_pk(email), EMAIL_SK), "username": to_attribute(username)}


def _put_new(item: Item) -> dict[str, Any]:
    return {"Put": {"TableName": IDENTITY.name, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}


def _put_over(item: Item, revision: int) -> dict[str, Any]:
    condition = {"ConditionExpression": "revision = :seen", "ExpressionAttributeValues": {":seen": to_attribute(revision)}}
    return {"Put": {"TableName": IDENTITY.name, "Item": item, **condition}}


def _delete_email(email: str, username: str) -> dict[str, Any]:
    condition = {"ConditionExpression": "username = :owner", "ExpressionAttributeValues": {":owner": to_attribute(username)}}
    return {"Delete": {"TableName": IDENTITY.name, "Key": _key(email_pk(email), EMAIL_SK), **condition}}


async def _conditional(dynamo: Dynamo, operation: str, **arguments: Any) -> bool:
    """One conditional write; False where the condition failed."""
    try:
        await dynamo.call(operation, TableName=IDENTITY.name, **arguments)
    except ClientError as error:
        if error_code(error) != "ConditionalCheckFailedException":
            raise
        return False
    return True


async def _transact(dynamo: Dynamo, actions: list[dict[str, Any]]) -> set[int]:
    """Write all or nothing; the indexes of the actions whose conditions failed, none where it is written.

    Tried again in bounds after conflicts and after no answer, with one token of its content: a try that came through counts once.
    """
    token = hashlib.sha256(json.dumps(actions, sort_keys=True).encode()).hexdigest()[:36]
    async for attempt in stamina.retry_context(on=DynamoUnavailable, attempts=WRITE_ATTEMPTS_MAX, timeout=WRITE_WAIT_S_MAX, wait_initial=0.02, wait_max=0.5):
        with attempt:
            try:
                await dynamo.call("transact_write_items", TransactItems=actions, ClientRequestToken=token)
            except ClientError as error:
                return _failed_conditions(error)
    return set()


def _failed_conditions(error: ClientError) -> set[int]:
    if error_code(error) != "TransactionCanceledException":
        raise error
    codes = [reason.get("Code") for reason in error.response.get("CancellationReasons") or []]
    failed = {index for index, code in enumerate(codes) if code == "ConditionalCheckFailed"}
    if not failed:
        raise DynamoUnavailable(f"transact_write_items: {', '.join(code for code in codes if code and code != 'None') or 'cancelled'}") from error
    return failed
