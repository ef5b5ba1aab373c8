"""There is always a trace id, and it is the caller's where the caller has one."""

from opentelemetry.trace import SpanKind

from events import tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def trace_of(traceparent: str | None) -> str:
    assert traceparent is not None
    version, trace, span, flags = traceparent.split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")
    assert set(trace) != {"0"}
    return trace


def test_made_where_there_is_none() -> None:
    """Without a span there is a fresh traceparent each time; within one it is the same each time."""
    first, second = tracing.current_traceparent(), tracing.current_traceparent()
    assert trace_of(first[0]) != trace_of(second[0])
    assert tracing.trace_id() is None
    with tracing.span("work"):
        inside = tracing.current_traceparent()
        assert inside == tracing.current_traceparent()
        assert tracing.trace_id() == trace_of(inside[0])
        with tracing.span("part"):
            assert trace_of(tracing.current_traceparent()[0]) == trace_of(inside[0])


def test_continued() -> None:
    """A given traceparent goes on, with its tracestate."""
    with tracing.span("work", SpanKind.CONSUMER, traceparent=PARENT, tracestate="vendor=1"):
        assert tracing.current_traceparent() == (PARENT, "vendor=1")


def test_edges_begin_traces() -> None:
    """A server or consumer span without a readable parent is no child of what happens to be open around it."""
    with tracing.span("around"):
        around = trace_of(tracing.current_traceparent()[0])
        for given in (None, "", "nonsense", "00-00000000000000000000000000000000-b7ad6b7169203331-01"):
            with tracing.span("edge", SpanKind.SERVER, traceparent=given):
                assert trace_of(tracing.current_traceparent()[0]) != around
            with tracing.span("within", traceparent=given):
                assert trace_of(tracing.current_traceparent()[0]) == around
