"""What the API's document says beyond what handlers declare: headers, and refusals that follow from what a request may carry."""

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

Document = dict[str, Any]

_TEXTS: Final = {
    "X-Request-ID": "Names the call in logs and events: the caller's own (up to 128 of letters, digits, `.`, `_`, `-`), or one made here",
    "Idempotency-Key": "The key under which this request may be repeated",
    "Command-Id": "Id of the command: `GET /api/v1/commands/{id}` tells what became of it",
    "Location": "Where to ask for the command",
    "Retry-After": "Seconds after which to ask or to try again",
    "Preference-Applied": "What of `Prefer` was followed (RFC 7240)",
    "Idempotent-Replayed": "`true` where this is the outcome of an earlier call with the same key",
    "Consistency-Token": "A read that presents it sees at least this version of the account",
    "Consistency-Satisfied": "Whether the answer shows what the presented token asks for; `false` only without `Prefer: handling=strict`",
    "Cache-Status": "RFC 9211; there where the answer bypassed the cache",
    "ETag": "Tag of the body, for `If-None-Match`",
    "WWW-Authenticate": "RFC 6750",
    "RateLimit": "What is left of the quota, and until when",
    "RateLimit-Policy": "The quota",
}
_REQUEST_ID: Final = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": _TEXTS["X-Request-ID"],
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
}
_OF_PROBLEM: Final = {
    401: ("WWW-Authenticate",),
    409: ("Idempotency-Key", "Command-Id", "Consistency-Token"),
    422: ("Idempotency-Key", "Command-Id", "Consistency-Token"),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After", "Idempotency-Key", "Command-Id", "Location"),
}
_PENDING: Final = ("Idempotency-Key", "Command-Id", "Location", "Retry-After", "Preference-Applied")
_SETTLED: Final = ("Idempotency-Key", "Command-Id", "Consistency-Token", "Preference-Applied", "Idempotent-Replayed")
_READ: Final = ("Consistency-Token", "Consistency-Satisfied", "Cache-Status")
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def describe_calls(document: Document) -> None:
    """Add headers and refusals to a document in which problems are `components.responses.Problem<status>`."""
    components = document["components"]
    components["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in _TEXTS.items()}
    for name, response in components.get("responses", {}).items():
        _add(response, _OF_PROBLEM.get(int(name.removeprefix("Problem")), ()))
    for operation in _operations(document):
        asked = {parameter["name"] for parameter in operation.get("parameters", [])}
        operation["parameters"] = [*operation.get("parameters", []), dict(_REQUEST_ID)]
        for status in _refusals(asked):
            operation["responses"].setdefault(str(status), {"$ref": f"#/components/responses/Problem{status}"})
        for status, response in operation["responses"].items():
            if "$ref" not in response:
                _add(response, _of_answer(asked, int(status)))


def _of_answer(asked: set[str], status: int) -> Iterator[str]:
    if "Idempotency-Key" in asked:
        yield from _PENDING if status == HTTPStatus.ACCEPTED else _SETTLED
    if "Consistency-Token" in asked:
        yield from _READ
    if "If-None-Match" in asked:
        yield "ETag"


def _refusals(asked: set[str]) -> Iterator[int]:
    if asked & {"Idempotency-Key", "Consistency-Token", "cursor"}:
        yield HTTPStatus.BAD_REQUEST.value
    if "Idempotency-Key" in asked:
        yield HTTPStatus.CONFLICT.value


def _add(response: Document, names: Iterable[str]) -> None:
    declared = response.get("headers") or {}
    response["headers"] = {**{name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}, **declared}


def _operations(document: Mapping[str, Any]) -> Iterator[Document]:
    for item in document.get("paths", {}).values():
        yield from (item[method] for method in _METHODS if method in item)
