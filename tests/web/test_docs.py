"""The description of the API is complete, valid and readable without a network."""

import re
from html.parser import HTMLParser

import httpx
import pytest
from litestar import get
from pydantic import BaseModel

from infra.http import PUBLIC, Health, build_app
from infra.http_docs import Docs, Merged
from infra.http_docs_page import render
from tests.fakes.clock import FakeIds
from tests.web.toy import Door


async def test_document(client: httpx.AsyncClient) -> None:
    """Bodies, answers, tokens and problems of each route are in the OpenAPI document; health and docs themselves are not."""
    answer = await client.get("/docs/openapi.json")
    assert answer.headers["content-type"] == "application/vnd.oai.openapi+json"
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    assert (document["info"]["title"], document["info"]["description"]) == ("Toy", "A toy.")
    assert not [path for path in document["paths"] if not path.startswith("/api/v1/")]
    pay = document["paths"]["/api/v1/pay"]["post"]
    assert pay["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Pay"}
    assert list(pay["responses"]) == ["201", "400", "401", "413", "415", "422", "429", "500", "503"]
    assert pay["responses"]["422"] == {"$ref": "#/components/responses/Problem422"}
    assert pay["security"] == [{"accessToken": []}]
    assert "Everything about it" in pay["description"]
    assert "security" not in document["paths"]["/api/v1/open"]["get"]
    assert "401" not in document["paths"]["/api/v1/open"]["get"]["responses"]
    assert "404" in document["paths"]["/api/v1/rows/{row_id}"]["get"]["responses"]
    assert "409" in document["paths"]["/api/v1/rows/{row_id}"]["delete"]["responses"]
    problem = document["components"]["responses"]["Problem422"]
    assert problem["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    assert "`insufficient-funds`" in problem["description"]
    amount = document["components"]["schemas"]["Pay"]["properties"]["amount"]
    assert "string" in str(amount)


async def test_references(client: httpx.AsyncClient) -> None:
    """Every reference in the document leads somewhere."""
    document = (await client.get("/docs/openapi.json")).json()
    for reference in set(re.findall(r"'\$ref': '#/([^']+)'", str(document))):
        target = document
        for step in reference.split("/"):
            target = target[step]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_page(client: httpx.AsyncClient) -> None:
    """The page is well-formed, shows every operation, and loads nothing: no script, no foreign address."""
    answer = await client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    tags = Tags()
    tags.feed(answer.text)
    assert not tags.open
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe"}
    assert not [attributes["href"] for _, attributes in tags.seen if (attributes.get("href") or "").startswith(("http", "//"))]
    assert answer.text.count("<details") == 15
    for words in ("/api/v1/pay", "Pay an amount.", "amount", "legs[].amount", "(no token)"):
        assert words in answer.text


def test_page_escapes() -> None:
    """Nothing of the document is taken for markup."""
    evil = "<script>alert(1)</script>"
    operation = {"description": evil, "responses": {"200": {"description": evil}}, "parameters": [{"name": evil, "in": "query", "description": evil}]}
    page = render({"info": {"title": evil, "version": evil, "description": evil}, "paths": {f"/api/v1/{evil}": {"get": operation}}})
    assert "<script" not in page


def test_merged(door: Door) -> None:
    """Two doors are described as one; a name with two meanings is refused."""

    class Paid(BaseModel):
        other: int

    @get("/pay", opt={PUBLIC: True})
    async def read_pay() -> str:
        return ""

    @get("/other", opt={PUBLIC: True})
    async def other() -> Paid:
        return Paid(other=1)

    def docs(*handlers: object) -> Docs:
        described = build_app("other", list(handlers), ids=FakeIds(), health=Health()).docs  # type: ignore[arg-type]
        assert isinstance(described, Docs)
        return described

    toy = door.app.docs
    assert toy is not None
    merged = Merged("Both", "Two.", [toy, docs(read_pay)]).document()
    assert set(merged["paths"]["/api/v1/pay"]) == {"get", "post"}
    assert merged["info"]["title"] == "Both"
    assert "get" not in toy.document()["paths"]["/api/v1/pay"]
    with pytest.raises(ValueError, match="Paid"):
        Merged("Both", "Two.", [toy, docs(other)]).document()
