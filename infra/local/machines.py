"""What a stack needs before it can start: the machines' programs on disk, ports for everything, and how to ask whether a part answers."""

import os
import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.local import dynamodb, kafka, ports, probes, valkey
from infra.local.cache import Say
from infra.local.config import LocalSettings
from infra.local.files import read_json, write_json
from infra.local.home import MACHINES, Home

LOCAL_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",  # the embedded engine takes any, but a client must have some
    "AWS_SESSION_TOKEN": "",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""For embedded engines: never a user's own credentials."""


@dataclass(frozen=True)
class Addresses:
    """Where a stack is reached. `engine` is dynoxide, ministack or external; ports and process ids go by name.

    `kafka_proxied` is where a proxy in front of Kafka finds the broker; empty where none was asked for.
    """

    kafka: str
    dynamodb_url: str
    redis_url: str
    engine: str
    origin_url: str = ""
    kafka_proxied: str = ""
    admin_ports: Mapping[str, int] = field(default_factory=dict)
    pids: Mapping[str, int] = field(default_factory=dict)

    def port(self, name: str) -> int:
        """The port of a process or machine (of an external Kafka or cluster of Redis the first server's); 0 where it has none."""
        url = {"kafka": f"//{self.kafka}", "dynamodb": self.dynamodb_url, "valkey": self.redis_url, "origin": self.origin_url}.get(name)
        return self.admin_ports.get(name, 0) if url is None else urlsplit(url.split(",")[0]).port or 0


@dataclass(frozen=True)
class Command:
    """How an embedded machine is started."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


def external(machine: str, settings: LocalSettings) -> str:
    """The configured address of a machine that is not to be started here; empty for an embedded one."""
    return {"kafka": settings.kafka, "dynamodb": settings.dynamodb_url, "valkey": settings.redis_url}[machine]


def through(addresses: Addresses, proxies: Mapping[str, int]) -> Addresses:
    """The same, for those who reach machines through proxies: their ports, by machine."""
    moved = {"kafka": f"{ports.HOST}:{{}}", "dynamodb": f"http://{ports.HOST}:{{}}", "valkey": f"redis://{ports.HOST}:{{}}/0"}
    fields = {"kafka": "kafka", "dynamodb": "dynamodb_url", "valkey": "redis_url"}
    return replace(addresses, **{fields[machine]: moved[machine].format(port) for machine, port in proxies.items()})  # type: ignore[arg-type]


def fetch(settings: LocalSettings, say: Say) -> dict[str, Any]:
    """Download or build the programs of the embedded machines where they are missing, side by side; where they are. LocalError where one fails."""
    made: dict[str, Any] = {}

    def have_kafka() -> None:
        made["jars"] = kafka.ensure_jars(say)

    def have_dynamodb() -> None:
        made["engine"], made["program"] = dynamodb.ensure(settings.dynamodb, say)

    together([job for name, job in {"kafka": have_kafka, "dynamodb": have_dynamodb}.items() if not external(name, settings)])
    return made


def prepare(settings: LocalSettings, home: Home, say: Say, proxies: Mapping[str, int]) -> tuple[dict[str, Command], Addresses]:
    """Download or build what is missing (side by side), choose ports, write configurations. Raises LocalError where one of these fails."""
    embedded = [name for name in MACHINES if not external(name, settings)]
    port = _machine_ports(settings, home, embedded)
    if "kafka" in embedded and "kafka" in proxies:
        port |= settle_ports(home, {"kafka_proxied": (0, "CNOP_KAFKA_PORT")})
    made = fetch(settings, say)
    engine = made.get("engine", "external")
    data = _data_folder(home, engine, say)

    commands: dict[str, Command] = {}
    if "kafka" in embedded:
        kafka.ensure_formatted(home, data, made["jars"], say)
        proxied = (port["kafka_proxied"], proxies["kafka"]) if "kafka_proxied" in port else None
        commands["kafka"] = Command(kafka.command(home, data, made["jars"], port["kafka"], port["kafka_controller"], proxied=proxied))
    if "dynamodb" in embedded:
        commands["dynamodb"] = Command(*dynamodb.command(data, engine, made["program"], port["dynamodb"]))
    if "valkey" in embedded:
        commands["valkey"] = Command(valkey.command(home, data, port["redis"], settings.redis_memory_mb))
    return commands, Addresses(
        kafka=settings.kafka or f"{ports.HOST}:{port['kafka']}",
        dynamodb_url=settings.dynamodb_url or f"http://{ports.HOST}:{port['dynamodb']}",
        redis_url=settings.redis_url or f"redis://{ports.HOST}:{port['redis']}/0",
        engine=engine,
        kafka_proxied=f"{ports.HOST}:{port['kafka_proxied']}" if "kafka_proxied" in port else "",
    )


def settle_ports(home: Home, wanted: Mapping[str, tuple[int, str]]) -> dict[str, int]:
    """A port for each name, from (configured port or 0, its variable); free ones are remembered for the next start."""
    remembered = read_json(home.ports_file)
    chosen: dict[str, int] = {}
    for name, (port, variable) in wanted.items():
        others = {value for other, value in (remembered | chosen).items() if other != name}
        chosen[name] = ports.choose(port, variable, remembered.get(name), others)
    write_json(home.ports_file, remembered | {name: port for name, port in chosen.items() if not wanted[name][0]})
    return chosen


def probe(name: str, addresses: Addresses) -> Callable[[], bool]:
    """The question whether a machine or process of a stack is ready."""
    match name:
        case "kafka":
            return lambda: probes.kafka(addresses.kafka)
        case "dynamodb":
            return lambda: probes.dynamodb(addresses.dynamodb_url)
        case "valkey":
            return lambda: probes.redis(addresses.redis_url)
        case _:
            return lambda: probes.http_ready(addresses.port(name))


def together(jobs: Sequence[Callable[[], None]]) -> None:
    """Run jobs side by side; returns when all are done, raises the first failure at once. What still runs then ends with this process at the latest."""
    results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            results.put(error)
        else:
            results.put(None)

    for job in jobs:
        threading.Thread(target=run, args=(job,), daemon=True).start()
    for _ in jobs:
        error = results.get()
        if error is not None:
            raise error


def _data_folder(home: Home, engine: str, say: Say) -> Path:
    """Where this start keeps its data: the home's own folder, or, beside an engine that forgets everything, an empty one.

    A log and views that speak of accounts which the tables do not know would be worse than none. What dynoxide has kept is left alone.
    """
    if engine != "ministack":
        return home.data
    say("dynamodb", dynamodb.MEMORY_ONLY)
    folder = home.data / "ministack"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _machine_ports(settings: LocalSettings, home: Home, embedded: Sequence[str]) -> dict[str, int]:
    wanted = {
        "kafka": ("kafka", settings.kafka_port, "CNOP_KAFKA_PORT"),
        "kafka_controller": ("kafka", settings.kafka_controller_port, "CNOP_KAFKA_CONTROLLER_PORT"),
        "dynamodb": ("dynamodb", settings.dynamodb_port, "CNOP_DYNAMODB_PORT"),
        "redis": ("valkey", settings.redis_port, "CNOP_REDIS_PORT"),
    }
    return settle_ports(home, {name: (port, variable) for name, (machine, port, variable) in wanted.items() if machine in embedded})
