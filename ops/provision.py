"""`cnop provision`: topics and tables, created where they are missing and checked where they are there."""

import asyncio

from rich.console import Console

from events import topics
from infra import tables
from infra.dynamo import DynamoUnavailable
from infra.settings import Settings


def provision(settings: Settings) -> None:
    """Create and check everything that the processes rely on; running it again changes nothing.

    Exits with a message where something exists in another shape, which is then left as it is, or where a machine does not answer.
    """
    try:
        asyncio.run(_provision(settings))
    except (topics.TopicMismatch, tables.TableMismatch, DynamoUnavailable, topics.BrokerError) as error:
        raise SystemExit(f"cnop provision: {error}") from None


async def _provision(settings: Settings) -> None:
    console = Console()
    made_topics, made_tables = await asyncio.gather(
        topics.provision(settings.kafka, settings.account_partitions, settings.topic_replication), tables.provision(settings.dynamodb_url, settings.aws_region)
    )
    for name in (*made_topics, *made_tables):
        console.print(f"created {name}")
    console.print(f"topics and tables are as declared ({len(made_topics)} topics and {len(made_tables)} tables created now)")
