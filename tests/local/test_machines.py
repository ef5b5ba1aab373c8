"""The embedded machines themselves, started once: Kafka, the DynamoDB engine, Valkey."""

import signal
import socket
from collections.abc import Iterator

import httpx
import psutil
import pytest

from infra.local.home import MACHINES
from infra.local.stack import Stack

TABLE = {
    "TableName": "kept",
    "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
    "BillingMode": "PAY_PER_REQUEST",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("machines"), processes=())
    stack.up(hold=True)
    yield stack
    stack.down()
    assert stack.leftovers() == []


def call(stack: Stack, operation: str, body: object) -> dict[str, object]:
    headers = {
        "x-amz-target": f"DynamoDB_20120810.{operation}",
        "content-type": "application/x-amz-json-1.0",
        "x-amz-date": "20260101T000000Z",
        "authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0",
    }
    answer: dict[str, object] = httpx.post(stack.addresses.dynamodb_url, json=body, headers=headers, trust_env=False).json()
    return answer


def valkey(stack: Stack, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", stack.addresses.port("valkey"))) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(4096)


@pytest.mark.timeout(300)  # the first start on a machine downloads and compiles
def test_every_machine_answers_on_the_loopback_interface_alone(stack: Stack) -> None:
    for name in MACHINES:
        assert stack.is_ready(name)
        listening = {one.laddr.ip for one in psutil.Process(stack.pid(name)).net_connections("inet") if one.status == psutil.CONN_LISTEN}
        assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}, name


def test_valkey_evicts_views_only_and_is_bounded(stack: Stack) -> None:
    assert b"volatile-lru" in valkey(stack, b"CONFIG GET maxmemory-policy")
    assert b"268435456" in valkey(stack, b"CONFIG GET maxmemory")


def test_machines_that_are_killed_come_back_with_their_data(stack: Stack) -> None:
    """SIGKILL to all three at once; the supervisor starts them again. What Kafka keeps is shown by the tests of the whole system."""
    memory_only = stack.addresses.engine == "ministack"
    assert "TableDescription" in call(stack, "CreateTable", TABLE)
    valkey(stack, b"SET kept yes")
    killed = {name: stack.signal(name, signal.SIGKILL) for name in MACHINES}
    for name in MACHINES:
        stack.await_ready(name)
        assert stack.pid(name) != killed[name]
    assert call(stack, "ListTables", {})["TableNames"] == ([] if memory_only else ["kept"])
    assert valkey(stack, b"GET kept") in {b"$3\r\nyes\r\n", b"$-1\r\n"}  # the last second may be lost


def test_the_environment_reaches_the_stack(stack: Stack) -> None:
    environment = stack.environment()
    addresses = stack.addresses
    assert environment["CNOP_KAFKA"] == addresses.kafka
    assert environment["CNOP_DYNAMODB_URL"] == addresses.dynamodb_url
    assert environment["CNOP_REDIS_URL"] == addresses.redis_url
    assert environment["AWS_ACCESS_KEY_ID"] == "local"
