"""What the headers of a write call say."""

import pytest

from command_api.call import Preferences, read_key, read_preferences
from infra.http import ProblemError


@pytest.mark.parametrize(
    ("text", "preferences", "applied_late"),
    [
        ("", Preferences(), ""),
        ("respond-async", Preferences(respond_async=True), "respond-async"),
        ("Respond-Async, WAIT=10", Preferences(respond_async=True, wait_s=10), "respond-async, wait=10"),
        ("wait=0", Preferences(wait_s=0), "wait=0"),
        ('wait = "7"', Preferences(wait_s=7), "wait=7"),
        ("wait=100000", Preferences(wait_s=30), "wait=30"),
        ("wait=3, wait=9", Preferences(wait_s=3), "wait=3"),
        ("wait=-1", Preferences(), ""),
        ("wait=1.5", Preferences(), ""),
        ("wait=²", Preferences(), ""),
        ("wait=" + "9" * 5000, Preferences(), ""),
        ('handling=strict; foo="a,b", return=minimal, respond-async', Preferences(respond_async=True), "respond-async"),
        (",,;=nonsense, respond-async", Preferences(respond_async=True), "respond-async"),
    ],
)
def test_preferences(text: str, preferences: Preferences, applied_late: str) -> None:
    """RFC 7240: names in any case, the first of two counts, what is not understood is ignored; a wait is cut to the longest allowed."""
    assert read_preferences(text) == preferences
    assert preferences.applied(asynchronously=True) == applied_late


def test_wait() -> None:
    """A wait of one's own counts, also with respond-async; respond-async alone does not wait."""
    assert [Preferences(*fields).wait(5) for fields in ((False, None), (True, None), (True, 3), (False, 0))] == [5, 0, 3, 0]
    assert Preferences(respond_async=True, wait_s=3).applied(asynchronously=False) == "wait=3"


@pytest.mark.parametrize(
    ("values", "key"), [([], None), (["abc"], "abc"), (['"abc"'], "abc"), ([r'"a\"b\\"'], 'a"b\\'), (['"'], '"'), (["x" * 255], "x" * 255)]
)
def test_keys(values: list[str], key: str | None) -> None:
    """A bare key and the same key as a quoted string are the same."""
    assert read_key(values) == key


@pytest.mark.parametrize("values", [[""], ['""'], ["a", "a"], ["a b"], ["x" * 256], ["ä"]])
def test_bad_keys(values: list[str]) -> None:
    """Anything else is refused."""
    with pytest.raises(ProblemError) as told:
        read_key(values)
    assert told.value.code == "invalid-header"
