"""Logs and traces of a process: JSON lines on standard output, spans to a collector where one is configured.

Every line has `timestamp level service_name request_id username message`, in this order; what else is known follows. Request id and
username are bound to the running task, so code that logs need not know them (by one context variable: structlog's own way looks at all
that there are, for each line). Values of passwords, tokens and bodies do not go into logs: fields with such names are blanked, and errors
are told without the input that caused them.
"""

import atexit
import json
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import orjson
import structlog
from opentelemetry import trace
from pydantic import ValidationError

from events import tracing
from infra.log_lines import Event, Lines
from infra.settings import Settings

Said = tuple[datetime, str | None, str | None]
"""When something was said, and of which request and user."""
_Bound = tuple[str | None, str | None]
_BOUND: Final[ContextVar[_Bound]] = ContextVar("cnop_request", default=(None, None))
"""Request id and username."""

EXPORT_S: Final = 2.0
"""A collector that is away may hold up neither the process nor its end for longer."""
REPEAT_S: Final = 10.0
TEMPLATES_MAX: Final = 500
TEMPLATE_MAX: Final = 200
FRAMES_MAX: Final = 30
CAUSES_MAX: Final = 5
ERROR_TEXT_MAX: Final = 500
_PLAIN: Final = orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_NON_STR_KEYS
_LEVELS: Final = {"warn": "warning", "exception": "error"}
"""Names of methods that are not the name of their level."""
_SECRET_FIELDS: Final = frozenset({"password", "token", "access_token", "refresh_token", "authorization", "secret", "private_key", "body", "cookie"})


class TelemetryMissing(RuntimeError):
    """A collector is configured, but the packages that talk to it are not installed. The text says what to install."""


def configure(service_name: str, settings: Settings) -> Callable[[], None]:
    """Set up logs and, where `otlp_endpoint` is set, traces. Once per process, before anything logs.

    Returns what flushes the last spans; call it when the process ends. TelemetryMissing where the extra `telemetry` is needed and missing.
    """
    _configure_logs(service_name, settings.log_level)
    flush = _install_tracing(service_name, settings.otlp_endpoint) if settings.otlp_endpoint else _nothing
    tracing.decide()
    return flush


def begin(request_id: str) -> Token[_Bound]:
    """Every later line of the running task is of this request, whose user is not known yet. `end` takes what this returns."""
    return _BOUND.set((request_id, None))


def known(username: str) -> None:
    """Every later line of the request is of this user."""
    _BOUND.set((_BOUND.get()[0], username))


def end(token: Token[_Bound]) -> Said:
    """Later lines are of what the task was at before `begin`. Returns the moment, and whose it was, for a line about what has ended now (`begun`)."""
    said = datetime.now(UTC), *_BOUND.get()
    _BOUND.reset(token)
    return said


def begun(said: Said) -> Event:
    """What a line begins with that was said at an earlier moment: pass it to the logger."""
    moment, request_id, username = said
    return {"timestamp": moment, "request_id": request_id, "username": username}


def bound(_logger: Any, _method: str, event: Event) -> Event:
    """Puts request id and username into a line that does not say them itself: a processor of structlog's."""
    request_id, username = _BOUND.get()
    event.setdefault("request_id", request_id)
    event.setdefault("username", username)
    return event


def _nothing() -> None:
    pass


def _configure_logs(service_name: str, level: str) -> None:
    line = _line(service_name)
    lines = Lines(sys.stdout.buffer, lambda event: _json_bytes(line(None, "", event)))
    atexit.register(lines.flush)
    structlog.configure(
        processors=[_known_now, lambda _logger, _method, event: ((event,), {})],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.processors.add_log_level, _with_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _known_now, line, structlog.processors.JSONRenderer(serializer=_json)],
        )
    )
    handler.addFilter(Repeats())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


def _json(event: Event, **_given: Any) -> str:
    return _json_bytes(event).decode()


def _json_bytes(event: Any) -> bytes:
    """One line. What the fast writer does not take, such as half of a surrogate pair or a very large number, the slow one writes."""
    try:
        return orjson.dumps(event, default=str, option=_PLAIN)
    except orjson.JSONEncodeError:
        return json.dumps(event, default=_plain).encode()


def _plain(value: object) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


class Repeats(logging.Filter):
    """Passes one line of a library's message in `REPEAT_S`, with the number of those left out since.

    A client whose broker is away says so a thousand times a second: that would push everything else out of logs of a bounded size.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it; the record gets `repeats` where others were left out."""
        key = (record.name, str(record.msg)[:TEMPLATE_MAX])
        said_at, left_out = self._said.get(key, (float("-inf"), 0))
        if record.created - said_at < REPEAT_S:
            self._said[key] = (said_at, left_out + 1)
            return False
        if len(self._said) >= TEMPLATES_MAX:
            self._said.clear()
        self._said[key] = (record.created, 0)
        if left_out:
            record.repeats = left_out
        return True


def _with_logger_name(_logger: Any, _method: str, event: Event) -> Event:
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["logger"] = record.name
        if repeats := getattr(record, "repeats", 0):
            event["repeats"] = repeats
    return event


def _known_now(logger: Any, method: str, event: Event) -> Event:
    """What only the moment of the call knows, unless the line says it: whose the line is, when it was said, how bad it is, and which error it tells of."""
    bound(logger, method, event)
    if "timestamp" not in event:
        event["timestamp"] = datetime.now(UTC)
    event.setdefault("level", _LEVELS.get(method, method))
    if "exc_info" in event:
        _explain(event)
    return event


def _line(service_name: str) -> structlog.types.Processor:
    """The event in the order of a line, without secrets."""

    def line(_logger: Any, _method: str, event: Event) -> Event:
        pop = event.pop
        told = {
            "timestamp": pop("timestamp"),
            "level": pop("level"),
            "service_name": service_name,
            "request_id": pop("request_id"),
            "username": pop("username"),
            "message": pop("event", ""),
        }
        told.update(event)
        if not _SECRET_FIELDS.isdisjoint(told):
            told.update(dict.fromkeys(_SECRET_FIELDS.intersection(told), "[blanked]"))
        return told

    return line


def _explain(event: Event) -> None:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = _chain(error)


def _chain(error: BaseException) -> list[dict[str, Any]]:
    chain: list[dict[str, Any]] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < CAUSES_MAX:
        chain.append({"type": type(cause).__qualname__, "text": _text(cause), "frames": _frames(cause.__traceback__)})
        cause = _behind(cause)
    return chain


def _behind(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _text(error: BaseException) -> str:
    if isinstance(error, ValidationError):  # its own text quotes the input
        return "; ".join(f"{'.'.join(map(str, line['loc']))}: {line['msg']}" for line in error.errors(include_input=False, include_url=False))[:ERROR_TEXT_MAX]
    return str(error)[:ERROR_TEXT_MAX]


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_qualname}")
        traceback = traceback.tb_next
    return frames[-FRAMES_MAX:]


def _install_tracing(service_name: str, endpoint: str) -> Callable[[], None]:
    # Imported here and not above: without a collector no SDK is loaded at all.
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise TelemetryMissing(f"CNOP_OTLP_ENDPOINT is set, but {error.name} is not installed: pip install 'cnop[telemetry]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": service_name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_S)))
    trace.set_tracer_provider(provider)
    return provider.shutdown
