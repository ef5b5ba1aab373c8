"""Tests on a real broker leave clients behind that were fenced or killed on purpose."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_behind() -> Iterator[None]:
    """What such clients never told is told now, and not in the middle of somebody else's work: in CPython 3.11 that can end a parse (gh-106905)."""
    yield
    gc.collect()
