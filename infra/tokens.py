"""Access tokens: JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037).

The command API signs with the private key; every door verifies with the public one. Whether a token was revoked is not told by the
token: doors ask the denylist as well.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from infra.clock import Clock, Ids
from infra.secrets import SecretRefused, read_private

ALGORITHM: Final = "EdDSA"
ISSUER: Final = "cnop"
AUDIENCE: Final = "cnop"
LIFETIME_S: Final = 3600
LEEWAY_S: Final = 5
"""How far the clocks of two doors may be apart."""
TOKEN_BYTES_MAX: Final = 4096
REMEMBERED_MAX: Final = 4096
_REQUIRED: Final = ("sub", "jti", "fam", "iat", "exp", "iss", "aud")


class InvalidToken(ValueError):
    """The text is not an access token of this system that is valid now. The text of the error says why, without the token."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says. `family` names the family of refresh tokens that it was issued with."""

    username: str
    token_id: str
    family: str
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SignedToken:
    """A token just made, and what it says."""

    text: str
    claims: Claims


class TokenSigner:
    """Makes access tokens."""

    def __init__(self, private_key: Ed25519PrivateKey, clock: Clock, ids: Ids) -> None:
        self._key = private_key
        self._clock = clock
        self._ids = ids

    @classmethod
    def from_file(cls, path: Path, clock: Clock, ids: Ids) -> "TokenSigner":
        """Read the private key (PEM). SecretRefused where it is missing, open to others, or no Ed25519 key."""
        try:
            key = load_pem_private_key(read_private(path), password=None)
        except (ValueError, TypeError) as error:
            raise SecretRefused(f"{path} is not a private key in PEM form without a password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SecretRefused(f"{path} is not an Ed25519 private key")
        return cls(key, clock, ids)

    def sign(self, username: str, family: str) -> SignedToken:
        """A new token of an hour for a user, with an id of its own."""
        issued = self._clock.now().replace(microsecond=0)
        claims = Claims(username, self._ids.new(), family, issued, issued + timedelta(seconds=LIFETIME_S))
        payload = {
            "sub": claims.username,
            "jti": claims.token_id,
            "fam": claims.family,
            "iat": int(claims.issued_at.timestamp()),
            "exp": int(claims.expires_at.timestamp()),
            "iss": ISSUER,
            "aud": AUDIENCE,
        }
        return SignedToken(jwt.encode(payload, self._key, algorithm=ALGORITHM), claims)


class TokenVerifier:
    """Tells whether a text is a valid access token, by signature, claims and time.

    What a signature says is the same each time: the last ones that were right are remembered (a check of it costs a third of a small
    request). Time is looked at each time.
    """

    def __init__(self, public_key: Ed25519PublicKey, clock: Clock) -> None:
        self._key = public_key
        self._clock = clock
        self._read = lru_cache(REMEMBERED_MAX)(self._read_once)

    @classmethod
    def from_file(cls, path: Path, clock: Clock) -> "TokenVerifier":
        """Read the public key (PEM). SecretRefused where it is missing or no Ed25519 key."""
        try:
            key = load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise SecretRefused(f"key file {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SecretRefused(f"{path} is not a public key in PEM form") from error
        if not isinstance(key, Ed25519PublicKey):
            raise SecretRefused(f"{path} is not an Ed25519 public key")
        return cls(key, clock)

    def verify(self, token: str) -> Claims:
        """The claims of a token that is valid now; InvalidToken for anything else."""
        if len(token) > TOKEN_BYTES_MAX:
            raise InvalidToken("too long")
        claims = self._read(token)
        now = self._clock.now()
        if claims.issued_at > now + timedelta(seconds=LEEWAY_S):
            raise InvalidToken("issued in the future")
        if claims.expires_at <= now - timedelta(seconds=LEEWAY_S):
            raise InvalidToken("expired")
        return claims

    def _read_once(self, token: str) -> Claims:
        try:
            payload: dict[str, Any] = jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # Time is checked by the clock that was given, not by the library's own.
                options={"require": list(_REQUIRED), "verify_exp": False, "verify_iat": False, "verify_nbf": False, "strict_aud": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise InvalidToken(type(error).__name__) from None
        return _claims(payload)


def _claims(payload: dict[str, Any]) -> Claims:
    texts = [payload[name] for name in ("sub", "jti", "fam")]
    times = [payload[name] for name in ("iat", "exp")]
    if not all(isinstance(text, str) and text for text in texts) or not all(type(time) is int for time in times):
        raise InvalidToken("claims of another type")
    issued, expires = times
    if not issued < expires <= issued + LIFETIME_S:
        raise InvalidToken("a lifetime that this system does not give")
    username, token_id, family = texts
    return Claims(username, token_id, family, _instant(issued), _instant(expires))


def _instant(seconds: int) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, tz=UTC)
    except (OverflowError, ValueError, OSError):
        raise InvalidToken("a time out of range") from None
