"""Logs and traces as a process would, for the tests of `infra.telemetry`."""

import logging
import sys
from datetime import UTC, datetime

import structlog
from opentelemetry.trace import SpanKind
from pydantic import SecretStr

from events import tracing
from infra import telemetry
from infra.settings import Settings
from schemas.identity import Login

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def break_twice() -> None:
    try:
        Login.model_validate({"username": "alice_1", "password": "tooshort-hunter2"[:9]})
    except ValueError as error:
        raise RuntimeError("could not log in") from error


flush = telemetry.configure("under-test", Settings())
log = structlog.get_logger()
log.info("before a request")
log.debug("not shown")
telemetry.begin("r-1")
telemetry.known("alice_1")
log.warning("with ümlaut", count=3, password="hunter2", access_token="hunter2", secret=SecretStr("hunter2"))
logging.getLogger("aiokafka.cluster").warning("topic %s is odd", "x")
logging.getLogger("aiokafka.cluster").info("not shown")
try:
    break_twice()
except RuntimeError:
    log.exception("failed", value=object)
    logging.getLogger("uvicorn.error").exception("failed below")
with tracing.span("outer", SpanKind.SERVER, {"a": 1}, traceparent=PARENT), tracing.span("inner"):
    log.info("traced", traceparent=tracing.current_traceparent()[0], sdk="opentelemetry.sdk" in sys.modules)
log.info("said before", **telemetry.begun((datetime(2026, 1, 1, tzinfo=UTC), "r-0", "bob_1")))
flush()
