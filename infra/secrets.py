"""Key material from files: read once at start-up, refused where it is missing, too short or open to everybody.

One secret file serves several purposes; each gets a key of its own (HKDF, RFC 5869), so that what is signed for one purpose proves
nothing for another.
"""

import stat
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES_MIN: Final = 32
PURPOSE_KEY_BYTES: Final = 32


class SecretRefused(RuntimeError):
    """A key file cannot be used. The text names the file and what to do; never its content."""


def read_private(path: Path) -> bytes:
    """The content of a file that only its owner (and group) may read. SecretRefused where it is missing, empty or open to others."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        raise SecretRefused(f"key file {path} cannot be read: {error.strerror}") from error
    if mode & stat.S_IRWXO:
        raise SecretRefused(f"key file {path} is open to every user of this machine: chmod 600 it, and make a new one if it was ever shared")
    if not content:
        raise SecretRefused(f"key file {path} is empty")
    return content


def read_secret(path: Path) -> bytes:
    """The secret of this installation. SecretRefused where the file is missing, open to others or has under 32 bytes."""
    secret = read_private(path)
    if len(secret) < SECRET_BYTES_MIN:
        raise SecretRefused(f"secret file {path} has {len(secret)} bytes, at least {SECRET_BYTES_MIN} random ones are needed")
    return secret


def derive(secret: bytes, purpose: str) -> bytes:
    """The key of one purpose ("command", "cursor", …): 32 bytes, always the same for the same secret and purpose."""
    return HKDF(algorithm=SHA256(), length=PURPOSE_KEY_BYTES, salt=None, info=f"cnop {purpose}".encode()).derive(secret)
