"""Answers with an ETag: whoever has the body already gets 304 and no body (RFC 9110, section 13.1.2)."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from litestar import Response

JSON: Final = "application/json"
TAG_DIGITS: Final = 32


def tagged(body: bytes, known: str, headers: Mapping[str, str] | None = None) -> Response[bytes]:
    """The body with its strong ETag. `known`: the request's `If-None-Match`."""
    etag = f'"{sha256(body).hexdigest()[:TAG_DIGITS]}"'
    all_headers = {**(headers or {}), "etag": etag}
    if known and not {etag, "*"}.isdisjoint(tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(b"", status_code=304, headers=all_headers)
    return Response(body, media_type=JSON, headers=all_headers)
