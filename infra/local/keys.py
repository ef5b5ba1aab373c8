"""The keys of a local system, made at the first start and never written again: losing one ends every session and command id made with it."""

import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.local.files import create_private
from infra.local.home import LocalError

SECRET_BYTES = 32


def ensure(private_key_file: Path, public_key_file: Path, secret_file: Path) -> None:
    """Make what is missing: an Ed25519 key pair (PEM: PKCS 8 and SubjectPublicKeyInfo) for access tokens, and 32 random bytes. Each file has mode 0600.

    Idempotent, and safe when called by two processes at once. Raises LocalError where a private key file is there that is no Ed25519 key, or a public
    one that is not its: every token would be refused.
    """
    if public_key_file.exists() and not private_key_file.exists():
        raise LocalError(
            f"{public_key_file} is there, but not {private_key_file}, its private key. Put that back, or remove the public one and end every session."
        )
    create_private(private_key_file, _private_pem(Ed25519PrivateKey.generate()))
    private = _load(private_key_file)
    if not create_private(public_key_file, _public_pem(private)) and not _is_pair(private, public_key_file):
        raise LocalError(
            f"{public_key_file} is not the public key of {private_key_file}. Put the right one back, or remove it: then it is made from the private one."
        )
    create_private(secret_file, secrets.token_bytes(SECRET_BYTES))


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise LocalError(f"{path} is not a private key in PEM form: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise LocalError(f"{path} is a private key, but not an Ed25519 one.")
    return key


def _is_pair(private: Ed25519PrivateKey, public_key_file: Path) -> bool:
    try:
        public = serialization.load_pem_public_key(public_key_file.read_bytes())
    except ValueError:
        return False
    return isinstance(public, Ed25519PublicKey) and public.public_bytes_raw() == private.public_key().public_bytes_raw()


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
