"""One real question to each machine: does it answer, not merely listen. And whose answer that is."""

import http.client
import socket
import struct
from urllib.parse import urlsplit

import httpx
import psutil

PROBE_S = 2.0
"""Bound of one question."""

API_VERSIONS = 18
"""Kafka's request that every broker answers, before anything is known about it."""

CORRELATION_ID = 7


def kafka(bootstrap: str) -> bool:
    """Whether a broker of `host:port[,host:port]` answers ApiVersions without an error. A KRaft broker does so only once it has joined its controller."""
    return any(_kafka_answers(*_host_port(server, 9092)) for server in bootstrap.split(","))


def dynamodb(url: str) -> bool:
    """Whether the endpoint speaks DynamoDB: ListTables gets an answer of that protocol (an external one may refuse the unsigned request; it is there)."""
    headers = {
        "content-type": "application/x-amz-json-1.0",
        "x-amz-target": "DynamoDB_20120810.ListTables",
        # Local engines want a signature's form, not its truth.
        "authorization": "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0",
        "x-amz-date": "20260101T000000Z",
    }
    try:
        with httpx.Client(timeout=PROBE_S, trust_env=False) as client:
            answer = client.post(url, headers=headers, content=b"{}")
            body = answer.json()
    except (httpx.HTTPError, ValueError):
        return False
    return not answer.is_server_error and isinstance(body, dict) and ("TableNames" in body or "__type" in body)


def redis(url: str) -> bool:
    """Whether the server answers PING (also by asking for a password: it is there)."""
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "valkey"}:
        return True  # TLS and unix sockets: only external servers, whose first user will tell
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379), PROBE_S) as connection:
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
    except OSError:
        return False
    return answer.startswith((b"+PONG", b"-NOAUTH"))


def http_ready(port: int) -> bool:
    """Whether the process behind `/readyz` says that it and all it depends on are ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listens(pid: int, port: int) -> bool:
    """Whether this process, or one that it started, listens on the TCP port. Taken for true where the system does not let us look."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return any(end.status == psutil.CONN_LISTEN and end.laddr.port == port for one in family for end in one.net_connections("tcp"))
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def _kafka_answers(host: str, port: int) -> bool:
    request = struct.pack(">hhih", API_VERSIONS, 0, CORRELATION_ID, -1)
    try:
        with socket.create_connection((host, port), PROBE_S) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            head = struct.calcsize(">iih")
            while len(answer) < head:
                chunk = connection.recv(4096)
                if not chunk:
                    return False
                answer += chunk
    except OSError:
        return False
    _, correlation_id, error_code = struct.unpack(">iih", answer[:head])
    return bool(correlation_id == CORRELATION_ID and error_code == 0)


def _host_port(server: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{server.strip()}")
    return parts.hostname or "127.0.0.1", parts.port or default_port
