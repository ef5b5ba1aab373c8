"""Only tokens that this system made, for itself, and that are in time, are tokens."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from infra.secrets import SecretRefused
from infra.tokens import LEEWAY_S, LIFETIME_S, InvalidToken, TokenSigner, TokenVerifier
from tests.fakes.clock import FakeClock, FakeIds

KEY = Ed25519PrivateKey.generate()


def payload(clock: FakeClock, **other: Any) -> dict[str, Any]:
    now = int(clock.now().timestamp())
    return {"sub": "alice_1", "jti": "j", "fam": "f", "iat": now, "exp": now + LIFETIME_S, "iss": "cnop", "aud": "cnop"} | other


def verify(token: str, clock: FakeClock) -> None:
    TokenVerifier(KEY.public_key(), clock).verify(token)


def test_round_trip() -> None:
    """A signed token says whose it is, its id, its family, and that it lasts an hour."""
    clock = FakeClock()
    signed = TokenSigner(KEY, clock, FakeIds()).sign("alice_1", "family")
    claims = TokenVerifier(KEY.public_key(), clock).verify(signed.text)
    assert claims == signed.claims
    assert (claims.username, claims.token_id, claims.family) == ("alice_1", FakeIds().new(), "family")
    assert (claims.expires_at - claims.issued_at).total_seconds() == LIFETIME_S
    assert jwt.get_unverified_header(signed.text)["alg"] == "EdDSA"


def test_life() -> None:
    """A token lives from its making to its end, give or take the leeway between two clocks."""
    clock = FakeClock()
    token = TokenSigner(KEY, clock, FakeIds()).sign("alice_1", "family").text
    clock.advance(-LEEWAY_S)
    verify(token, clock)
    clock.advance(-1)
    with pytest.raises(InvalidToken, match="future"):
        verify(token, clock)
    clock.advance(1 + LEEWAY_S + LIFETIME_S + LEEWAY_S - 1)
    verify(token, clock)
    clock.advance(1)
    with pytest.raises(InvalidToken, match="expired"):
        verify(token, clock)


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"aud": ["cnop", "other"]},
        {"sub": ""},
        {"sub": 7},
        {"jti": None},
        {"fam": ["f"]},
        {"iat": "now"},
        {"iat": 1.5},
        {"exp": True},
        {"exp": 10**30},
        {"iat": 0},
        {"exp": 0},
    ],
)
def test_claims(changed: dict[str, Any]) -> None:
    """Claims of another system, type or lifetime are refused although the signature is right."""
    clock = FakeClock()
    verify(jwt.encode(payload(clock), KEY, algorithm="EdDSA"), clock)
    with pytest.raises(InvalidToken):
        verify(jwt.encode(payload(clock, **changed), KEY, algorithm="EdDSA"), clock)


@pytest.mark.parametrize("missing", ["sub", "jti", "fam", "iat", "exp", "iss", "aud"])
def test_missing_claims(missing: str) -> None:
    """Every claim is needed."""
    clock = FakeClock()
    claims = {name: value for name, value in payload(clock).items() if name != missing}
    with pytest.raises(InvalidToken):
        verify(jwt.encode(claims, KEY, algorithm="EdDSA"), clock)


def test_other_algorithms() -> None:
    """The algorithm is fixed: neither "none", nor a MAC keyed with the public key, nor another curve or key gets in."""
    clock = FakeClock()
    claims = payload(clock)
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    mac = base64.urlsafe_b64encode(jwt.get_algorithm_by_name("HS256").sign(head + b"." + body, public)).rstrip(b"=")
    forged = [
        jwt.encode(claims, "", algorithm="none"),
        b".".join((head, body, mac)).decode(),
        jwt.encode(claims, generate_private_key(SECP256R1()), algorithm="ES256"),
        jwt.encode(claims, Ed448PrivateKey.generate(), algorithm="EdDSA"),
        jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA"),
    ]
    for token in forged:
        with pytest.raises(InvalidToken):
            verify(token, clock)


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "ä", "x" * 10_000, "\x00", "e30.e30.e30"])
def test_garbage(text: str) -> None:
    """Anything else is an invalid token, never another error."""
    with pytest.raises(InvalidToken):
        verify(text, FakeClock())


def test_damaged() -> None:
    """A change anywhere in a token makes it invalid."""
    clock = FakeClock()
    token = TokenSigner(KEY, clock, FakeIds()).sign("alice_1", "family").text
    for place in range(0, len(token) - 2, 7):  # the last sign of a part has bits that do not count
        with pytest.raises(InvalidToken):
            verify(token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :], clock)


def test_key_files(tmp_path: Path) -> None:
    """Keys are read from PEM files; a private one that others may read, or one of another kind, is refused."""
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    private.chmod(0o600)
    public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    clock = FakeClock()
    token = TokenSigner.from_file(private, clock, FakeIds()).sign("alice_1", "family").text
    assert TokenVerifier.from_file(public, clock).verify(token).username == "alice_1"
    private.chmod(0o644)
    with pytest.raises(SecretRefused, match="open to every user"):
        TokenSigner.from_file(private, clock, FakeIds())
    with pytest.raises(SecretRefused, match="not a public key"):
        TokenVerifier.from_file(private, clock)
    public.chmod(0o600)
    with pytest.raises(SecretRefused, match="not a private key"):
        TokenSigner.from_file(public, clock, FakeIds())
    with pytest.raises(SecretRefused, match="cannot be read"):
        TokenVerifier.from_file(tmp_path / "missing.pem", clock)
    other = generate_private_key(SECP256R1())
    private.chmod(0o600)
    private.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(SecretRefused, match="not an Ed25519 private"):
        TokenSigner.from_file(private, clock, FakeIds())
    with pytest.raises(SecretRefused, match="not an Ed25519 public"):
        TokenVerifier.from_file(public, clock)
