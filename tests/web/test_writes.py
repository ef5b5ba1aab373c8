"""What is written to a connection in one turn of the loop leaves in one piece, in order, and is bounded."""

import asyncio
from typing import cast

from infra.http_writes import HELD_BYTES_MAX, Together


class Wire:
    """The transport behind: what it was given, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.closing = False

    def write(self, piece: bytes) -> None:
        assert not self.closing
        self.pieces.append(piece)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def get_extra_info(self, name: str) -> str:
        return name


def over(wire: Wire) -> Together:
    return Together(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def next_turn() -> None:
    await asyncio.sleep(0)


async def test_head_and_body_leave_together() -> None:
    wire = Wire()
    connection = over(wire)
    connection.write(b"head ")
    connection.write(b"body")
    assert wire.pieces == []
    await next_turn()
    assert wire.pieces == [b"head body"]


async def test_each_turn_is_a_piece() -> None:
    """As the events of a stream: none waits for the next."""
    wire = Wire()
    connection = over(wire)
    for event in (b"one", b"two", b"three"):
        connection.write(event)
        await next_turn()
    assert wire.pieces == [b"one", b"two", b"three"]


async def test_much_goes_out_at_once() -> None:
    """So that the connection's own bound is met by a writer that never waits."""
    wire = Wire()
    connection = over(wire)
    connection.write(b"head ")
    connection.write(bytes(HELD_BYTES_MAX))
    assert wire.pieces == [b"head " + bytes(HELD_BYTES_MAX)]
    connection.write(b"more")
    await next_turn()
    assert wire.pieces[1:] == [b"more"]


async def test_what_is_held_is_sent_before_the_end() -> None:
    wire = Wire()
    connection = over(wire)
    connection.write(b"last words")
    connection.close()
    await next_turn()
    assert (wire.pieces, wire.closing) == ([b"last words"], True)


async def test_nothing_is_sent_on_a_connection_that_is_gone() -> None:
    wire = Wire()
    connection = over(wire)
    connection.write(b"too late")
    wire.closing = True
    await next_turn()
    assert wire.pieces == []


async def test_all_else_is_the_connections_own() -> None:
    assert over(Wire()).get_extra_info("peername") == "peername"
