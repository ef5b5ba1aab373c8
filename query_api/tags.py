"""Answers with an ETag: whoever has the body already gets 304 and no body (RFC 9110, section 13.1.2)."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from infra.http_answers import RawHeaders, Ready

TAG_DIGITS: Final = 32


@dataclass(frozen=True, slots=True)
class Body:
    """JSON, its strong ETag, and the headers that go with both."""

    text: bytes
    etag: str
    raw_headers: RawHeaders


def body_of(text: bytes) -> Body:
    """Some JSON with its ETag."""
    etag = f'"{sha256(text).hexdigest()[:TAG_DIGITS]}"'
    return Body(text, etag, ((b"etag", etag.encode()), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))))


def tagged(body: Body, known: str, raw_headers: RawHeaders = ()) -> Ready:
    """The body with its ETag, or 304. `known`: the request's `If-None-Match`."""
    if known and not {body.etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Ready(b"", (*raw_headers, (b"etag", body.etag.encode())), status_code=304)
    return Ready(body.text, (*raw_headers, *body.raw_headers))
