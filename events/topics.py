"""The topics: names, partitions, retention, and their idempotent creation.

A topic that exists with another partition count or another setting of those named here is reported and stops the start: the key of
an account would move to another partition, or a log be cut where it must not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import stamina
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError, for_code

REQUESTS: Final = "cnop.account.requests.v1"
RESULTS: Final = "cnop.account.results.v1"
PRICES: Final = "cnop.market.prices.v1"
ASSETS: Final = "cnop.market.assets.v1"
DEAD_LETTERS: Final = "cnop.dead-letters.v1"

SETTLEMENT: Final = "cnop-settlement"
PROJECTOR: Final = "cnop-projector"
TRIGGERS: Final = "cnop-triggers"
"""Consumer groups. A settlement partition's transactional id is the group's name, a hyphen and the partition's number."""

REQUEST_BYTES_MAX: Final = 128 * 1024
RESULT_BYTES_MAX: Final = 256 * 1024
DEAD_LETTER_BYTES_MAX: Final = 2 * REQUEST_BYTES_MAX
MARKET_PARTITIONS: Final = 1
"""Prices of one asset must stay in order and all of them are few: one partition."""
_DAY_MS: Final = 86_400_000
ACCOUNT_RETENTION_DAYS: Final = 365
CONNECT_ATTEMPTS_MAX: Final = 20
CONNECT_WAIT_S_MAX: Final = 30.0


BrokerError = KafkaError
"""What any call to a broker may raise, for callers outside this package."""


class TopicMismatch(RuntimeError):
    """A topic exists, but not as it is declared here. The text names topic, setting, what it is and what it should be."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic's declared shape."""

    name: str
    partitions: int
    settings: Mapping[str, str]


def declared(account_partitions: int) -> tuple[Topic, ...]:
    """All topics. Requests and results have the same partition count: a result goes to the partition with its request's number."""
    account = {"cleanup.policy": "delete", "retention.ms": str(ACCOUNT_RETENTION_DAYS * _DAY_MS), "retention.bytes": "-1"}
    compact = {"cleanup.policy": "compact", "min.compaction.lag.ms": str(_DAY_MS)}
    return (
        Topic(REQUESTS, account_partitions, {**account, **_AS_RECEIVED, "max.message.bytes": str(REQUEST_BYTES_MAX)}),
        Topic(RESULTS, account_partitions, {**account, "max.message.bytes": str(RESULT_BYTES_MAX)}),
        Topic(PRICES, MARKET_PARTITIONS, compact),
        Topic(ASSETS, MARKET_PARTITIONS, compact),
        Topic(DEAD_LETTERS, account_partitions, {**account, "max.message.bytes": str(DEAD_LETTER_BYTES_MAX)}),
    )


_AS_RECEIVED: Final = {"message.timestamp.type": "LogAppendTime", "compression.type": "uncompressed"}
"""The broker's own clock, and the bound on the bytes of a record as they are: what was small only by compression could not become a dead letter."""


async def provision(bootstrap: str, account_partitions: int, replication: int) -> list[str]:
    """Create what is missing and check what is there; the names of the created topics.

    `replication` counts the replicas of each partition of a new topic. TopicMismatch where a topic differs; KafkaConnectionError where no broker answers.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id="cnop-provision")
    async for attempt in stamina.retry_context(on=KafkaConnectionError, attempts=CONNECT_ATTEMPTS_MAX, timeout=CONNECT_WAIT_S_MAX, wait_max=2.0):
        with attempt:
            await admin.start()
    try:
        return await _create_and_check(admin, declared(account_partitions), replication)
    finally:
        await admin.close()


async def _create_and_check(admin: AIOKafkaAdminClient, topics: tuple[Topic, ...], replication: int) -> list[str]:
    existing = set(await admin.list_topics())
    missing = [topic for topic in topics if topic.name not in existing]
    if missing:
        response = await admin.create_topics([NewTopic(topic.name, topic.partitions, replication, topic_configs=dict(topic.settings)) for topic in missing])
        for name, code, *rest in response.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise error(f"creating {name}: {rest[0] if rest else ''}")
    await _check_partitions(admin, topics)
    await _check_settings(admin, topics)
    return [topic.name for topic in missing]


async def _check_partitions(admin: AIOKafkaAdminClient, topics: tuple[Topic, ...]) -> None:
    async for attempt in stamina.retry_context(on=_NotYetKnown, attempts=CONNECT_ATTEMPTS_MAX, timeout=CONNECT_WAIT_S_MAX, wait_max=1.0):
        with attempt:
            found = await _partitions_of(admin, topics)
    for topic in topics:
        if found.get(topic.name) != topic.partitions:
            raise TopicMismatch(
                f"topic {topic.name} has {found.get(topic.name)} partitions, {topic.partitions} are declared: the count cannot change once records are in it"
            )


async def _partitions_of(admin: AIOKafkaAdminClient, topics: tuple[Topic, ...]) -> dict[str, int]:
    """Partitions of each topic. A broker may answer for a moment that one it has just made has none."""
    found = {row["topic"]: len(row["partitions"]) for row in await admin.describe_topics([topic.name for topic in topics])}
    unknown = [topic.name for topic in topics if not found.get(topic.name)]
    if unknown:
        raise _NotYetKnown(f"the broker does not know of any partition of {', '.join(unknown)}")
    return found


class _NotYetKnown(KafkaError):  # type: ignore[misc] # the client has no types
    pass


async def _check_settings(admin: AIOKafkaAdminClient, topics: tuple[Topic, ...]) -> None:
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _type, name, entries in response.resources:
            if code:
                raise KafkaError(f"describing {name}: {message}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    for topic in topics:
        for key, value in topic.settings.items():
            if found[topic.name].get(key) != value:
                raise TopicMismatch(f"topic {topic.name} has {key}={found[topic.name].get(key)}, {value} is declared")
