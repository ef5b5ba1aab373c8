"""Command ids, command views and consistency tokens: pure functions that both doors share."""

from uuid import uuid4

import pytest

from schemas.commands import command_id, command_view, read_command_id
from schemas.results import result_of
from schemas.views import consistency_token, read_consistency_token
from tests.fakes.histories import History

KEY = b"k" * 32


def test_command_ids() -> None:
    """An id reads back for its user under its key, and for nobody else, under no other key, and in no other form."""
    request_id = str(uuid4())
    text = command_id(KEY, "alice_1", request_id)
    assert read_command_id(KEY, "alice_1", text) == request_id
    assert read_command_id(KEY, "bob_123", text) is None
    assert read_command_id(b"x" * 32, "alice_1", text) is None
    for damaged in (text[:-1], text + "0", text.upper(), " " + text, text + "\n", text[:-1] + ("0" if text[-1] != "0" else "1"), ""):
        assert read_command_id(KEY, "alice_1", damaged) is None


def test_command_views() -> None:
    """A view tells state and outcome, the same from an entry and from its result; without either the command is pending."""
    history = History("alice_1").grow(["deposit", "buy", "refuse"])
    views = [command_view(entry, "cmd") for entry in history.entries]
    assert [view.state for view in views] == ["settled", "settled", "refused"]
    assert [command_view(result_of(entry), "cmd") for entry in history.entries] == views
    assert views[0].outcome
    assert views[0].outcome["new_balance"] == "1.00"
    assert views[1].outcome
    assert views[1].outcome["data"]["status"] == "completed"
    assert (views[2].outcome, views[2].code) == (None, "insufficient-funds")
    assert command_view(None, "cmd").model_dump(exclude_none=True) == {"command_id": "cmd", "state": "pending"}


@pytest.mark.parametrize("version", [0, 1, 10**17])
def test_consistency_tokens(version: int) -> None:
    """A token gives its version back to its user only."""
    token = consistency_token("alice_1", version)
    assert read_consistency_token("alice_1", token) == version
    assert read_consistency_token("bob_123", token) is None


@pytest.mark.parametrize("token", ["", "1", "v1", "v1.1", "v1.-1.00000000", "v1.01.00000000", "v2.1.00000000", "v1." + "9" * 30 + ".00000000"])
def test_damaged_tokens(token: str) -> None:
    """Anything else is no token, and raises nothing."""
    assert read_consistency_token("alice_1", token) is None
