"""A short soak: the real processes killed, paused, cut off and emptied under load, each way once, and the books audited from zero."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.faults import (
    KILL_SETTLEMENT,
    SECOND_JOINS,
    WRITES_OF_KAFKA,
    Fault,
    answers_lost,
    connections_cut,
    killed,
    paused_inside,
)
from tests.soak.proxy import requests_with
from tests.soak.report import as_json, rows
from tests.soak.run import Load, Plan, Progress, soak
from tests.soak.running import System

SEED = 20_261_125
FAULTS_S = 30.0
LANES = (
    [SECOND_JOINS, Fault("settlement paused 20 s inside a transaction", "settled", paused_inside), KILL_SETTLEMENT],
    [
        connections_cut("kafka", "settled"),
        answers_lost("dynamodb", "settled", 2, requests_with(b"TransactWriteItems")),
        answers_lost("kafka", "settled", 2, WRITES_OF_KAFKA),
        killed("dynamodb", "settled"),
        killed("kafka", "settled"),
    ],
    [
        killed("origin", "answered"),
        Fault("valkey emptied", "answered", System.empty_the_cache),
        connections_cut("valkey", "answered"),
        killed("projector", "ready"),
        killed("valkey", "answered"),
        killed("market", "ready"),
        killed("triggers", "ready"),
    ],
)


@pytest.mark.timeout(400)
async def test_nothing_is_lost_doubled_or_told_twice(tmp_path: Path) -> None:
    """Whatever was acknowledged has one entry and one result, in order; the books add up; no offset ever went back; all of it recovers by itself."""
    progress = Progress()
    done = await soak(tmp_path, Plan(LANES, FAULTS_S, ends_in_time=False), Load(callers=8, per_s=60), SEED, progress=progress, stop=asyncio.Event())
    assert done.clean, json.dumps(as_json(done, {"seed": SEED}), indent=1)
    assert {row["fault"] for row in rows(progress.tried)} == {fault.name for lane in LANES for fault in lane}
    assert done.findings.figures["acknowledged"] > 500
    kinds = Counter(json.loads(record.value or b"{}").get("kind") for record in done.evidence.results)
    assert {"OrderTriggered", "OrderExpiryReached", "OrderCancelRequested"} <= kinds.keys(), kinds
    assert done.findings.figures["dead_letters"] == len(done.evidence.injected) > 0
    assert len(done.evidence.committed) > 20
