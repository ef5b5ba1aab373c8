"""All accounts of the ledger, page by page: for what is made anew of every one of them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from infra.dynamo import Dynamo, Item, query_pages
from infra.ledger_items import read_account
from schemas.ledger import Account
from schemas.tables import ACCOUNT_SK, LEDGER

PAGE_ITEMS: Final = 1_000
"""Items of every kind that one read looks through: accounts have no index of their own, their histories lie between them."""

Place = Mapping[str, str]
"""The key of the last item that was looked through."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some accounts; `place` to go on behind them, None: these were the last. `items` were looked through for them.

    `unreadable`: partition keys of accounts whose item cannot be read.
    """

    accounts: Sequence[Account]
    place: Place | None
    items: int
    unreadable: Sequence[str] = ()


async def account_pages(dynamo: Dynamo, place: Place | None = None, *, page_items: int = PAGE_ITEMS) -> AsyncIterator[Page]:
    """The pages behind a place, each consistent as of its reading. DynamoUnavailable: the pages so far hold."""
    of_accounts: dict[str, Any] = {"FilterExpression": "sk = :account", "ExpressionAttributeValues": {":account": {"S": ACCOUNT_SK}}}
    after = {name: {"S": value} for name, value in place.items()} if place else None
    async for answer in query_pages(dynamo, operation="scan", after=after, page_max=page_items, TableName=LEDGER.name, **of_accounts):
        last: Item = answer.get("LastEvaluatedKey", {})
        yield _page(answer["Items"], {name: value["S"] for name, value in last.items()} or None, answer["ScannedCount"])


async def items_about(dynamo: Dynamo) -> int:
    """About how many items of every kind there are: the store counts them now and then."""
    return int((await dynamo.call("describe_table", TableName=LEDGER.name))["Table"].get("ItemCount", 0))


def _page(items: list[Item], place: Place | None, looked_through: int) -> Page:
    accounts, unreadable = [], []
    for item in items:
        try:
            accounts.append(read_account(item))
        except (ValueError, KeyError):
            unreadable.append(item["pk"]["S"])
    return Page(accounts, place, looked_through, unreadable)
