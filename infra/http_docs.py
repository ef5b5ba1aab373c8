"""The API's description: one OpenAPI 3.1 document per door, and a page of it that needs neither script nor network."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from litestar import Litestar, Response, Router, get
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.routes import HTTPRoute
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from infra.http_auth import PUBLIC
from infra.http_described import describe_calls
from infra.http_docs_page import render
from schemas.problems import PROBLEM_JSON, PROBLEMS, Problem

API_VERSION: Final = "1.0.0"
OPENAPI_JSON: Final = "application/vnd.oai.openapi+json"
REFUSES: Final = "refuses"
"""Handler option: codes of the catalogue with which this route also refuses, `opt={REFUSES: ("order-not-open",)}`. Those of its
token, parameters and body need not be named."""
_SCHEME: Final = "accessToken"
_REF: Final = "#/components/schemas/{model}"

Document = dict[str, Any]


class Docs:
    """The description of an app, made when it is first asked for."""

    def __init__(self, title: str, description: str, api: Router, dependencies: Mapping[str, Provide]) -> None:
        self._title = title
        self._description = description
        self._api = api
        self._dependencies = dependencies
        self._document: Document | None = None

    def document(self) -> Document:
        """The OpenAPI document."""
        if self._document is None:
            config = OpenAPIConfig(
                self._title, API_VERSION, description=self._description or None, use_handler_docstrings=True, render_plugins=[JsonRenderPlugin()]
            )
            # Litestar describes only apps that serve its own pages. So a second app, which serves nothing, is described instead.
            described = Litestar([self._api], dependencies=dict(self._dependencies), openapi_config=config, logging_config=None)
            self._document = _completed(copy.deepcopy(described.openapi_schema.to_schema()), described)
        return self._document


class Merged:
    """The description of several apps as one: each path with the operations that any of them has."""

    def __init__(self, title: str, description: str, parts: Sequence["Docs | Merged"]) -> None:
        self._title = title
        self._description = description
        self._parts = parts

    def document(self) -> Document:
        """The OpenAPI document. ValueError where two apps mean different things by the same name."""
        documents = [part.document() for part in self._parts]
        merged = copy.deepcopy(documents[0])
        merged["info"] |= {"title": self._title, "description": self._description}
        for document in documents[1:]:
            for path, operations in document.get("paths", {}).items():
                _merge(merged.setdefault("paths", {}).setdefault(path, {}), operations, path)
            for kind, components in document.get("components", {}).items():
                _merge(merged["components"].setdefault(kind, {}), components, kind)
        return merged


def routes(docs: Docs | Merged) -> list[HTTPRouteHandler]:
    """`/docs` and `/docs/openapi.json`."""

    @get("/docs", opt={PUBLIC: True}, include_in_schema=False, media_type="text/html")
    async def page() -> Response[str]:
        return Response(render(docs.document()), headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"})

    @get("/docs/openapi.json", opt={PUBLIC: True}, include_in_schema=False)
    async def document() -> Response[Document]:
        return Response(docs.document(), media_type=OPENAPI_JSON)

    return [page, document]


def _merge(into: dict[str, Any], more: Mapping[str, Any], where: str) -> None:
    for name, value in more.items():
        if into.setdefault(name, value) != value:
            raise ValueError(f"two apps describe {name} of {where} in different ways")


def _completed(document: Document, app: Litestar) -> Document:
    components = document.setdefault("components", {})
    components["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "From POST /api/v1/auth/login"}}
    schemas = components.setdefault("schemas", {})
    schemas |= _models(app) | _problem_schemas()
    components["responses"] = {f"Problem{status}": _problem_response(status) for status in sorted({kind.status for kind in PROBLEMS.values()})}
    for path, method, handler in _operations(app):
        operation = document.get("paths", {}).get(path, {}).get(method)
        if operation is not None:
            _complete(operation, handler)
    describe_calls(document)
    return document


def _operations(app: Litestar) -> Iterable[tuple[str, str, HTTPRouteHandler]]:
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in handler.http_methods:
                    yield route.path_format, str(getattr(method, "value", method)).lower(), handler


def _models(app: Litestar) -> dict[str, Any]:
    """Pydantic's own schemas, since Litestar's know neither how a decimal is written nor what a field's description is."""
    handlers = [handler for _, _, handler in _operations(app)]
    bodies = [field.annotation for handler in handlers if (field := handler.parsed_fn_signature.parameters.get("data"))]
    answers = [handler.parsed_fn_signature.return_type.annotation for handler in handlers]
    answers += [spec.data_container for handler in handlers for spec in (handler.responses or {}).values()]
    return _schemas(bodies, "validation") | _schemas(answers, "serialization")


def _schemas(annotations: Iterable[Any], mode: JsonSchemaMode) -> dict[str, Any]:
    models = {model: None for annotation in annotations for model in _within(annotation)}
    _, top = models_json_schema([(model, mode) for model in models], ref_template=_REF)
    schemas: dict[str, Any] = top.get("$defs", {})
    return schemas


def _within(annotation: Any) -> Iterable[type[BaseModel]]:
    """The models in an annotation: `Response[Page] | None` has Page."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _within(inner)


def _complete(operation: dict[str, Any], handler: HTTPRouteHandler) -> None:
    responses = operation["responses"]
    if not (handler.responses and 400 in handler.responses):  # noqa: PLR2004 - Litestar's own idea of a validation error
        responses.pop("400", None)
    refused = {PROBLEMS[code].status for code in handler.opt.get(REFUSES, ())}
    for status in (*_statuses(operation, public=bool(handler.opt.get(PUBLIC))), *refused):
        responses.setdefault(str(status), {"$ref": f"#/components/responses/Problem{status}"})
    operation["responses"] = dict(sorted(responses.items()))
    if not handler.opt.get(PUBLIC):
        operation["security"] = [{_SCHEME: []}]


def _statuses(operation: Mapping[str, Any], *, public: bool) -> Iterable[int]:
    parameters = operation.get("parameters", [])
    yield from () if public else (401,)
    yield from (400, 413, 415, 422) if "requestBody" in operation else (422,) if parameters else ()
    yield from (404,) if any(parameter.get("in") == "path" for parameter in parameters) else ()
    yield from (429, 500, 503)


def _problem_schemas() -> dict[str, Any]:
    schema = Problem.model_json_schema(ref_template=_REF)
    parts = schema.pop("$defs", {})
    return {"Problem": schema, **parts}


def _problem_response(status: int) -> dict[str, Any]:
    codes = [kind for kind in PROBLEMS.values() if kind.status == status]
    return {
        "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in codes),
        "content": {PROBLEM_JSON: {"schema": {"$ref": _REF.format(model="Problem")}}},
    }
