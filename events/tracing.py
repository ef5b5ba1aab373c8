"""Trace context (W3C): carried through HTTP and record headers, whether or not anything records spans.

Works on the OpenTelemetry API alone. Where no SDK is installed a span records nothing, but there is always a trace id: the first
span of a call makes one, and everything published within it carries the same.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, INVALID_SPAN_CONTEXT, Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

LINKS_MAX: Final = 16
_SERVER: Final = SpanKind.SERVER
_CONSUMER: Final = SpanKind.CONSUMER
_TRACE_BYTES: Final = 16
_SPAN_BYTES: Final = 8
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_W3C: Final = TraceContextTextMapPropagator()
_TRACER: Final = trace.get_tracer("cnop")
"""Goes on to the provider that a process installs later. Asking for one each time would read the environment each time."""


def decide() -> None:
    """Call it where the process has its tracer provider, or will have none: from then on a span costs next to nothing where nothing records it."""
    _process.decide()


def current_traceparent() -> tuple[str | None, str | None]:
    """`traceparent` and `tracestate` to send along now; the first is a fresh random one where no span is open."""
    context = _around().get_span_context()
    if not context.is_valid:
        context = _Fresh().get_span_context()
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return parent, context.trace_state.to_header() or None


def trace_id() -> str | None:
    """The trace id of the open span, 32 hex digits: for log lines. None where no span is open."""
    context = _around().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
    *,
    traceparent: str | None = None,
    tracestate: str | None = None,
) -> AbstractContextManager[Span]:
    """Open a span around a piece of work: a child of the given `traceparent`, or else of the span that is open.

    Spans of kind SERVER and CONSUMER stand at the edge of a process: without a readable `traceparent` they begin a trace. An exception
    that leaves the block marks the span as failed.
    """
    at_edge = kind is _SERVER or kind is _CONSUMER
    if not traceparent and not _process.records():
        # What a tracer would have to be asked for is known.
        around = INVALID_SPAN if at_edge else _around()
        return _Standing(_Fresh()) if around is INVALID_SPAN else nullcontext(around)
    around = _around()
    opened = _TRACER.start_span(name, _parent(traceparent, tracestate, Context() if at_edge else trace.set_span_in_context(around)), kind, attributes)
    if opened.is_recording():
        return trace.use_span(opened, end_on_exit=True)
    if not opened.get_span_context().is_valid:
        return _Standing(_Fresh())
    if not at_edge and opened.get_span_context() is around.get_span_context():
        return nullcontext(opened)  # nothing records, and the span around it stands for this one
    return trace.use_span(opened) if _process.records() else _Standing(opened)


@contextmanager
def batch_span(name: str, origins: Sequence[tuple[str | None, str | None]]) -> Iterator[Span]:
    """Open a consumer's span around a batch. A batch of one goes on with the trace of its record; a larger one links to its records' traces.

    `origins` are the records' (`traceparent`, `tracestate`); at most `LINKS_MAX` of them are linked.
    """
    attributes: dict[str, AttributeValue] = {"messaging.system": "kafka", "messaging.batch.message_count": len(origins)}
    if len(origins) == 1:
        ((traceparent, tracestate),) = origins
        with span(name, SpanKind.CONSUMER, attributes, traceparent=traceparent, tracestate=tracestate) as opened:
            yield opened
        return
    contexts = [_span_context(traceparent, tracestate) for traceparent, tracestate in origins[:LINKS_MAX]]
    links = [Link(context) for context in contexts if context.is_valid]
    with _TRACER.start_as_current_span(name, Context(), SpanKind.CONSUMER, attributes, links) as opened:
        yield opened


def _span_context(traceparent: str | None, tracestate: str | None) -> SpanContext:
    return trace.get_current_span(_parent(traceparent, tracestate, Context())).get_span_context()


def _parent(traceparent: str | None, tracestate: str | None, otherwise: Context) -> Context:
    """The context that a header names; the other one where there is none, or none that can be read."""
    if not traceparent:
        return otherwise
    return _W3C.extract({"traceparent": traceparent, **({"tracestate": tracestate} if tracestate else {})}, otherwise)


class _Fresh(NonRecordingSpan):
    """A span that nothing records. Its context says "sampled", so that a consumer that does trace does not leave it out. It is made for whoever asks for
    it: hardly a read is told to anybody else.
    """

    def __init__(self) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> SpanContext:
        """The same each time."""
        if self._context is INVALID_SPAN_CONTEXT:
            chance = secrets.token_bytes(_TRACE_BYTES + _SPAN_BYTES)
            ids = int.from_bytes(chance[:_TRACE_BYTES], "big") or 1, int.from_bytes(chance[_TRACE_BYTES:], "big") or 1
            self._context = SpanContext(*ids, is_remote=False, trace_flags=_SAMPLED)
        return self._context


_STANDING: Final[ContextVar[Span | None]] = ContextVar("cnop_span", default=None)
"""The open span of a process where nothing records any. OpenTelemetry's own context costs ten times as much, and nobody else looks at it there."""


def _around() -> Span:
    """The open span; one that is not valid where there is none."""
    return _STANDING.get() or trace.get_current_span()


def _has_provider() -> bool:
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


class _Process:
    """Whether anything records spans here. Asking OpenTelemetry reads the environment each time; once `decide` was called, that answer holds."""

    def __init__(self) -> None:
        self._records: bool | None = None

    def decide(self) -> None:
        self._records = _has_provider()

    def records(self) -> bool:
        return _has_provider() if self._records is None else self._records


_process: Final = _Process()


class _Standing(AbstractContextManager[Span]):
    """Has a span that nothing records for the open one. A class, since each request opens one, and a generator costs twice as much."""

    __slots__ = ("_opened", "_token")

    def __init__(self, opened: Span) -> None:
        self._opened = opened

    def __enter__(self) -> Span:
        self._token = _STANDING.set(self._opened)
        return self._opened

    def __exit__(self, *_raised: object) -> None:
        _STANDING.reset(self._token)
