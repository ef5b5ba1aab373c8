"""Errors over HTTP: whatever is raised becomes `application/problem+json` with a code of the catalogue (RFC 9457).

Pointers: `/amount` is a JSON pointer (RFC 6901) into the body, "" the whole body; `#/query/limit`, `#/path/order_id` and
`#/header/Idempotency-Key` name what stands elsewhere.
"""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException, ValidationException
from litestar.types import Receive, Scope, Send
from pydantic import ValidationError
from pydantic_core import to_json

from schemas.problems import PROBLEM_JSON, PROBLEMS, FieldError, Problem, ProblemType

log = structlog.get_logger()

RETRY_AFTER_S: Final = 1
"""Sent with a 503 whose raiser did not name a time."""
FIELD_ERRORS_MAX: Final = 50
REQUEST_ID: Final = "request_id"
"""Key of the request's id in its state (`request.state.request_id`)."""
PROBLEM_CODE: Final = "problem_code"
"""Key in the request's state of the code that was answered: for the log line."""
OTHER_METHODS: Final = "cnop.methods"
"""Scope key of a function, set where several apps share an origin: path → the methods that any of them has there."""
_REALM: Final = 'Bearer realm="cnop"'
_BY_STATUS: Final = {
    400: "invalid-header",
    401: "unauthorized",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "body-too-large",
    415: "unsupported-media-type",
    422: "validation-failed",
    429: "rate-limited",
    503: "unavailable",
}
_DETAILS: Final = {
    "not-found": "Nothing is at this path.",
    "method-not-allowed": "The Allow header names the methods of this path.",
    "body-too-large": "A body may have at most 64 KiB.",
    "validation-failed": "What `errors` names is not valid.",
    "internal": "The error was logged under the request id.",
}
_NO_OBJECT: Final = "a JSON object is needed"
_MISSING: Final = re.compile(r"Missing required (\w+) parameter '(.+)' for path")
_MSGSPEC_WORDS: Final = (
    ("Expected ", "must be "),
    ("`int", "`a whole number"),
    ("`str", "`text"),
    ("`bool", "`true or false"),
    (" | null", ""),
    ("`", ""),
)


class ProblemError(Exception):
    """An error for the caller, told by a code of `schemas.problems`.

    `pointer` names the one invalid field, `errors` several. `extensions` are further members of the body, JSON values only.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        pointer: str | None = None,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind: ProblemType = PROBLEMS[code]
        self.detail = detail or self.kind.title
        self.errors = (*errors, FieldError(pointer=pointer, detail=self.detail)) if pointer is not None else tuple(errors)
        self.headers = dict(headers or {})
        self.extensions = dict(extensions or {})
        super().__init__(f"{code}: {self.detail}")

    @property
    def code(self) -> str:
        """Its code."""
        return self.kind.code

    @property
    def status(self) -> int:
        """Its HTTP status."""
        return self.kind.status


def invalid_fields(error: ValidationError) -> ProblemError:
    """The answer to a body that a door checked by a model itself. One that escapes from a handler is a bug of ours: 500."""
    return _invalid_body(error.errors(include_input=False, include_url=False))


def answer(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to anything that was raised. Errors that nobody meant are logged with their traceback and told without it."""
    problem = _as_problem(request, error)
    if problem.code == "internal":
        log.error("request failed", exc_info=error)
    state = request.scope["state"]
    state[PROBLEM_CODE] = problem.code
    return _response(problem, state.get(REQUEST_ID, ""), request.scope["path"])


async def cut_short(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request whose handler was cancelled because the process stops: a read can be repeated, of a write the outcome is not known."""
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    problem = ProblemError("unavailable" if request.method == "GET" else "outcome-unknown", "The process stopped before it could answer.")
    response = answer(request, problem).to_asgi_response(None, request)
    await response(scope, receive, send)


def _response(problem: ProblemError, request_id: str, instance: str) -> Response[bytes]:
    body = Problem(
        type=problem.kind.uri,
        title=problem.kind.title,
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
        request_id=request_id,
        retryable=problem.kind.retryable,
        instance=instance,
        errors=list(problem.errors[:FIELD_ERRORS_MAX]),
    )
    content = to_json({**body.model_dump(), **problem.extensions})
    return Response(content, status_code=problem.status, media_type=PROBLEM_JSON, headers=_headers(problem))


def _headers(problem: ProblemError) -> dict[str, str]:
    headers = problem.headers
    if problem.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": _with_head(headers)}
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_S), **headers}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers = {"WWW-Authenticate": _REALM, **headers}
    return headers


def _with_head(headers: Mapping[str, str]) -> str:
    methods = {method.strip() for name, value in headers.items() if name.lower() == "allow" for method in value.split(",")}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def _as_problem(request: Request[Any, Any, Any], error: Exception) -> ProblemError:
    match error:
        case ProblemError():
            return error
        case ValidationException():
            return _invalid(request, error)
        case NotFoundException() | MethodNotAllowedException() if methods := _methods_elsewhere(request):
            return ProblemError("method-not-allowed", _DETAILS["method-not-allowed"], headers={"Allow": ", ".join(methods)})
        case HTTPException(status_code=status) if code := _BY_STATUS.get(status):
            return ProblemError(code, _DETAILS.get(code, error.detail), headers=error.headers)
        case _:
            return ProblemError("internal", _DETAILS["internal"])


def _methods_elsewhere(request: Request[Any, Any, Any]) -> frozenset[str]:
    lookup = request.scope.get(OTHER_METHODS)
    methods: frozenset[str] = lookup(request.scope["path"]) if callable(lookup) else frozenset()
    return methods if request.method not in methods else frozenset()


def _invalid(request: Request[Any, Any, Any], error: ValidationException) -> ProblemError:
    # Litestar hides pydantic's errors behind dotted keys; the exception that it came from still has their places.
    by_model = getattr(error.__cause__, "errors", None)
    if isinstance(by_model, list):
        return _invalid_body(by_model)
    if missing := _MISSING.match(error.detail):
        return ProblemError("validation-failed", "A parameter is missing.", errors=[FieldError(pointer=f"#/{missing[1]}/{missing[2]}", detail="is required")])
    lines = error.extra if isinstance(error.extra, list) else []
    return ProblemError("validation-failed", _DETAILS["validation-failed"], errors=[_parameter_error(request, line) for line in lines])


def _invalid_body(errors: Sequence[Mapping[str, Any]]) -> ProblemError:
    lines = [FieldError(pointer="".join(f"/{_escaped(part)}" for part in error["loc"]), detail=_rule(error)) for error in errors]
    return ProblemError("validation-failed", _DETAILS["validation-failed"], errors=lines)


def _escaped(part: Any) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _rule(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a known field"
        case "model_type" | "dict_type" | "model_attributes_type":
            return _NO_OBJECT
        case _:
            return str(error["msg"]).removeprefix("Value error, ")


def _parameter_error(request: Request[Any, Any, Any], line: Any) -> FieldError:
    name, source = str(line.get("key", "")), line.get("source") or "query"
    source = str(getattr(source, "value", source))
    if source == "body":
        whole = name in {"", "data"}  # so Litestar tells that there is no body
        return FieldError(pointer="" if whole else "/" + name.replace(".", "/"), detail=_NO_OBJECT if whole else _plain_words(line["message"]))
    return FieldError(pointer=f"#/{source}/{_wire_name(request, name)}", detail=_plain_words(line["message"]))


def _wire_name(request: Request[Any, Any, Any], name: str) -> str:
    field = request.route_handler.parsed_fn_signature.parameters.get(name)
    return getattr(field.kwarg_definition, "name", None) or name if field else name


def _plain_words(message: str) -> str:
    for word, plain in _MSGSPEC_WORDS:
        message = message.replace(word, plain)
    return message
