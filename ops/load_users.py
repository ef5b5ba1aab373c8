"""The users of a load: a CSV of names and passwords, which is all that logging in needs, and what registering them needs beside that."""

import csv
import io
import re
from pathlib import Path
from typing import Final

from ops.client import NewUser
from ops.load_file import UNENDED
from schemas.identity import PASSWORD_MIN
from schemas.requests import USERNAME_PATTERN

COLUMNS: Final = ("username", "password", "email", "first_name", "last_name")
REQUIRED: Final = ("username", "password")
EMAIL: Final = "{username}@example.com"
FIRST_NAME, LAST_NAME = "Loaded", "User"


class UsersInvalid(ValueError):
    """The users file cannot be used. The text names the line and the rule, never a password."""


def read_users(path: Path) -> dict[str, NewUser]:
    """By username. Where a file has no addresses and names, made-up ones stand in for them."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return _users(csv.DictReader(io.StringIO(text, newline=""), strict=True), is_whole=text.endswith(("\n", "\r")))
    except UsersInvalid as error:
        raise UsersInvalid(f"{path}, {error}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsersInvalid(f"{path}: {error}") from None


def _users(rows: "csv.DictReader[str]", *, is_whole: bool) -> dict[str, NewUser]:
    unknown = [name for name in rows.fieldnames or () if name not in COLUMNS]
    missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
    if unknown or missing:
        raise UsersInvalid(f"line 1: the header has username and password, and may have {', '.join(COLUMNS[2:])}")
    users: dict[str, NewUser] = {}
    for row in rows:
        number = rows.line_num
        username = (row["username"] or "").strip().lower()
        if None in row or None in row.values():
            raise UsersInvalid(f"line {number}: has another number of columns than the header")
        if not re.fullmatch(USERNAME_PATTERN, username):
            raise UsersInvalid(f"line {number}, username: {username[:50]!r} is not 6 to 30 letters, digits and _")
        if len(row["password"]) < PASSWORD_MIN:
            raise UsersInvalid(f"line {number}, password: has fewer than {PASSWORD_MIN} characters")
        if username in users:
            raise UsersInvalid(f"line {number}, username: {username} is there already")
        users[username] = NewUser(
            username,
            row["password"],
            row.get("email") or EMAIL.format(username=username),
            row.get("first_name") or FIRST_NAME,
            row.get("last_name") or LAST_NAME,
        )
    if not is_whole:
        raise UsersInvalid(f"line {rows.line_num}: {UNENDED}")
    return users
