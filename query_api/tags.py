"""Answers with an ETag: whoever has the body already gets 304 and no body (RFC 9110, section 13.1.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from infra.http_answers import Ready

TAG_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class Body:
    """JSON, and its strong ETag."""

    text: bytes
    etag: str


def body_of(text: bytes) -> Body:
    """Some JSON with its ETag."""
    return Body(text, f'"{sha256(text).hexdigest()[:TAG_DIGITS]}"')


def tagged(body: Body, known: str, headers: Mapping[str, str] | None = None) -> Ready:
    """The body with its ETag. `known`: the request's `If-None-Match`; names of `headers` are in lower case."""
    all_headers = {**(headers or {}), "etag": body.etag}
    if known and not {body.etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Ready(b"", all_headers, status_code=304)
    return Ready(body.text, all_headers)
