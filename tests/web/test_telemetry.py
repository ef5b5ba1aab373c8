"""Every line of a process is one JSON object with the agreed keys; spans leave it only where a collector is configured."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SCRIPT = Path(__file__).with_name("telemetry_under_test.py")
ROOT = SCRIPT.parents[2]
KEYS = ["timestamp", "level", "service_name", "request_id", "username", "message"]
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def said(**environment: str) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, errors) == (0, b"")
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
async def lines() -> list[dict[str, Any]]:
    return await said()


def test_keys(lines: list[dict[str, Any]]) -> None:
    """The agreed keys come first in every line, whoever writes it; unknown ones are null."""
    assert all(list(line)[: len(KEYS)] == KEYS for line in lines)
    assert {line["service_name"] for line in lines} == {"under-test"}
    first, second, third = lines[:3]
    assert (first["level"], first["message"], first["request_id"], first["username"]) == ("info", "before a request", None, None)
    assert (second["level"], second["request_id"], second["username"], second["count"]) == ("warning", "r-1", "alice_1", 3)
    assert second["message"] == "with ümlaut"
    assert first["timestamp"].endswith("Z")
    assert (third["logger"], third["message"], third["request_id"]) == ("aiokafka.cluster", "topic x is odd", "r-1")
    assert len(lines) == 7


def test_said_before(lines: list[dict[str, Any]]) -> None:
    """A line about what ended earlier tells that moment, and whose it was, in the same keys."""
    assert {key: lines[6][key] for key in ("timestamp", "request_id", "username", "message")} == {
        "timestamp": "2026-01-01T00:00:00Z",
        "request_id": "r-0",
        "username": "bob_1",
        "message": "said before",
    }


def test_no_secrets(lines: list[dict[str, Any]]) -> None:
    """Neither fields with telling names nor the text of an error show what a user typed."""
    assert "hunter2" not in json.dumps(lines)
    assert "tooshort" not in json.dumps(lines)
    assert lines[1]["password"] == "[blanked]"


def test_exceptions(lines: list[dict[str, Any]]) -> None:
    """An exception is one structured part of its line: type, text and frames, of the causes as well."""
    for line in lines[3:5]:
        outer, inner = line["exception"]
        assert (outer["type"], outer["text"]) == ("RuntimeError", "could not log in")
        assert outer["frames"][-1].endswith(" break_twice")
        assert inner["type"] == "ValidationError"
        assert inner["text"].startswith("password: ")


def test_trace_without_sdk(lines: list[dict[str, Any]]) -> None:
    """Without a collector no SDK is loaded, and the trace is passed on all the same."""
    assert (lines[5]["sdk"], lines[5]["traceparent"].split("-")[1]) == (False, TRACE)


async def test_trace_to_a_collector() -> None:
    """With a collector the spans arrive there: of this service, in the caller's trace, nested."""
    received = asyncio.get_running_loop().create_future()

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.partition(":")[2]) for line in head.splitlines() if line.lower().startswith("content-length"))
        body = await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        if not received.done():
            received.set_result((head, body))
        writer.close()

    async with await asyncio.start_server(collect, "127.0.0.1", 0) as collector:
        port = collector.sockets[0].getsockname()[1]
        lines = await said(CNOP_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_COMPRESSION="none")
        head, body = await asyncio.wait_for(received, 10)
    assert head.startswith("POST /v1/traces ")
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert ("service.name", "under-test") in {(item.key, item.value.string_value) for item in resource.resource.attributes}
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["outer"].parent_span_id.hex() == "b7ad6b7169203331"
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert lines[5]["traceparent"] == f"00-{TRACE}-{spans['inner'].span_id.hex()}-01"
