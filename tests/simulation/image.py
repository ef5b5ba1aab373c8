"""The program under test, linked anew from its own sources: against a Kafka client in memory, and with one text replaced where a mutant is wanted.

Nothing of ours is patched. The modules named here are executed once more from their files; what they import of one another comes from the same
image, aiokafka's clients are the ones in memory, metrics count nothing, spans record nothing, and log lines go to the run's trace. Everything else
is the real thing.
"""

import builtins
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aiokafka

from tests.fakes.kafka_consumer import FakeConsumer
from tests.fakes.kafka_producer import FakeProducer

LINKED = (
    "events.stalls",
    "events.transaction",
    "events.loop",
    "events.lane",
    "events.consumer",
    "infra.ledger",
    "infra.parked",
    "processors.domain.decide",
    "processors.domain.parking",
    "processors.known",
    "processors.records",
    "processors.work",
    "processors.parking",
    "processors.settlement",
)
LONGER = {
    "events.consumer": {"HEARTBEAT_MS": 3_000, "FETCH_WAIT_MS": 10_000},
    "events.lane": {"POLL_MS": 5_000},
    "events.stalls": {"WATCH_INTERVAL_S": 10.0},
    "processors.work": {"DRAIN_MAX": 2},
    "processors.parking": {"PARKED_A_MINUTE_MAX": 100},
}
"""Idle beats, which cost a simulation time and show nothing, are longer; a step of draining is shorter, so that there is a next one."""

Mutation = tuple[str, str, str]
"""A module, a text that stands in it exactly once, and what stands there instead."""


class _Metric:
    """Counts nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.inc = self.observe = self.set = self.remove = self._nothing

    def labels(self, *_: Any, **__: Any) -> "_Metric":
        return self

    def time(self) -> nullcontext[None]:
        return nullcontext()

    def _nothing(self, *_: Any, **__: Any) -> None: ...


class _Logger:
    """Log lines go to whoever follows the run."""

    def __init__(self, image: "Image") -> None:
        self.info = self.warning = self.error = self.debug = self.exception = self._say
        self._image = image

    def _say(self, event: str, **facts: Any) -> None:
        if self._image.says:
            self._image.says(event, facts)


class Image:
    """One linked program. `says` is told its log lines; `fails` may raise before an account's requests are decided, as a bug would."""

    def __init__(self, name: str = "as it is", mutations: tuple[Mutation, ...] = ()) -> None:
        self.name = name
        self.says: Callable[[str, Mapping[str, Any]], None] | None = None
        self.fails: Callable[[Any], None] = lambda _: None
        self._mutations = mutations
        metric = SimpleNamespace(Counter=_Metric, Gauge=_Metric, Histogram=_Metric)
        clients = SimpleNamespace(**{**vars(aiokafka), "AIOKafkaConsumer": FakeConsumer, "AIOKafkaProducer": FakeProducer})
        self._modules: dict[str, Any] = {
            "prometheus_client": metric,
            "aiokafka": clients,
            "structlog": SimpleNamespace(get_logger=lambda: _Logger(self)),
            "events.tracing": SimpleNamespace(batch_span=lambda *_: nullcontext()),
        }
        for module in LINKED:
            self._modules[module] = self._link(module)
        self.consumer: Any = self._modules["events.consumer"]
        self.parked: Any = self._modules["infra.parked"]
        self.settlement: Any = self._modules["processors.settlement"]

    def _link(self, name: str) -> ModuleType:
        module = ModuleType(f"{self.name}: {name}")
        source = self._source(name)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        sys.modules[module.__name__] = module  # dataclasses look their module up
        exec(compile(source, f"{name} ({self.name})", "exec"), module.__dict__)  # noqa: S102 - our own source
        if name == "processors.domain.decide":
            module.__dict__["decide"] = self._failing(module.__dict__["decide"])
        return module

    def _source(self, name: str) -> str:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise LookupError(name)
        source = Path(spec.origin).read_text(encoding="utf-8")
        for constant, value in LONGER.get(name, {}).items():
            source, found = re.subn(rf"(?m)^{constant}: Final = .*$", f"{constant}: Final = {value}", source)
            if found != 1:
                raise LookupError(f"{name}.{constant} is there {found} times")
        for module, old, new in self._mutations:
            if module != name:
                continue
            if source.count(old) != 1:
                raise LookupError(f"mutant {self.name!r}: its text is {source.count(old)} times in {name}: {old!r}")
            source = source.replace(old, new)
        return source

    def _import(self, name: str, globals_: Any = None, locals_: Any = None, names: Any = (), level: int = 0) -> Any:
        return self._modules.get(name) or builtins.__import__(name, globals_, locals_, names, level)

    def _failing(self, decide: Callable[..., Any]) -> Callable[..., Any]:
        def failing(account: Any, logged: Any, orders: Any) -> Any:
            self.fails(logged)
            return decide(account, logged, orders)

        return failing
