"""Secrets come from files that nobody else can read, one key for each purpose."""

import secrets
from pathlib import Path

import pytest

from infra.clock import SystemClock, SystemIds
from infra.secrets import SECRET_BYTES_MIN, SecretRefused, derive, read_secret


def test_read(tmp_path: Path) -> None:
    """A file of 32 bytes for its owner (and group) is taken as it is; missing, short, empty and open ones are refused by name."""
    path = tmp_path / "secret"
    with pytest.raises(SecretRefused, match="cannot be read"):
        read_secret(path)
    content = secrets.token_bytes(SECRET_BYTES_MIN)
    path.write_bytes(content)
    for mode in (0o600, 0o400, 0o440):
        path.chmod(mode)
        assert read_secret(path) == content
    for mode in (0o644, 0o604, 0o602):
        path.chmod(mode)
        with pytest.raises(SecretRefused, match=str(path)):
            read_secret(path)
    path.chmod(0o600)
    for short in (content[:-1], b""):
        path.write_bytes(short)
        with pytest.raises(SecretRefused):
            read_secret(path)


def test_derive() -> None:
    """Keys are the same for the same secret and purpose, differ between purposes and secrets, and are those of RFC 5869."""
    one = derive(b"s" * 32, "command")
    assert one == derive(b"s" * 32, "command")
    assert len({one, derive(b"s" * 32, "cursor"), derive(b"t" * 32, "command")}) == 3
    assert len(one) == 32
    assert one.hex() == "f781452a6baba8e9b30d9352e91d94c127b07d5d6ba7644a2b991c456cd95ccf"


def test_clock_and_ids() -> None:
    """Time is UTC in whole milliseconds; ids sort by their time and do not repeat."""
    now = SystemClock().now()
    assert now.utcoffset() is not None
    assert now.microsecond % 1000 == 0
    ids = [SystemIds().new() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
