"""DynamoDB in memory, as far as the ledger speaks to it: so that the ledger's own code runs in the simulation too.

`MemoryDynamo.call` takes what `infra.dynamo.Dynamo.call` takes, and `happen` is what the engine does with it: a transaction happens as a whole,
or tells its reasons action by action. `changed(before and after of each item)` is told of each write at the moment at which it happens.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from botocore.exceptions import ClientError

from infra.dynamo import Attribute, Item
from tests.fakes.ledger import as_stored, invalid

ACTIONS_MAX = 100
ITEM_BYTES_MAX = 400 * 1024
PAGE_ITEMS_MAX = 1_000

Changes = Sequence[tuple[Item | None, Item | None]]
Key = tuple[str, str]


class MemoryDynamo:
    """One table, `pk` and `sk`. Stands where a `Dynamo` would."""

    def __init__(self, changed: Callable[[Changes], None] = lambda _: None) -> None:
        self.items: dict[str, dict[str, Item]] = {}
        self._changed = changed

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """See `Dynamo.call`; no other task runs meanwhile."""
        return self.happen(operation, arguments)

    def happen(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One call, at once. ClientError where the answer is no."""
        answer: dict[str, Any] = getattr(self, f"_{operation}")(**arguments)
        return answer

    def put(self, item: Item) -> None:
        """Put an item there, as somebody's hand would."""
        self.items.setdefault(item["pk"]["S"], {})[item["sk"]["S"]] = item

    def _get_item(self, *, Key: Item, **_: Any) -> dict[str, Any]:  # noqa: N803 - DynamoDB's names
        item = self._at(Key)
        return {"Item": item} if item else {}

    def _batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N803
        ((table, asked),) = RequestItems.items()
        keys = [(key["pk"]["S"], key["sk"]["S"]) for key in asked["Keys"]]
        if len(set(keys)) != len(keys):
            raise invalid("BatchGetItem", "Provided list of item keys contains duplicates")
        return {"Responses": {table: [item for pk, sk in keys if (item := self.items.get(pk, {}).get(sk))]}}

    def _batch_write_item(self, *, RequestItems: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N803
        ((_, asked),) = RequestItems.items()
        keys = [request["DeleteRequest"]["Key"] for request in asked]
        changes = [(self._at(key), None) for key in keys]
        for key in keys:
            self.items.get(key["pk"]["S"], {}).pop(key["sk"]["S"], None)
        self._changed(changes)
        return {}

    def _query(
        self,
        *,
        KeyConditionExpression: str,  # noqa: N803
        ExpressionAttributeValues: Mapping[str, Attribute],  # noqa: N803
        ExpressionAttributeNames: Mapping[str, str] | None = None,  # noqa: N803
        FilterExpression: str = "",  # noqa: N803
        ScanIndexForward: bool = True,  # noqa: N803
        Limit: int = PAGE_ITEMS_MAX,  # noqa: N803
        ExclusiveStartKey: Item | None = None,  # noqa: N803
        **_: Any,
    ) -> dict[str, Any]:
        names = ExpressionAttributeNames or {}
        sort = next((field for field, *_rest in _terms(KeyConditionExpression) if field != "pk"), "sk")
        sort = names.get(sort, sort)
        of_account = self.items.get(ExpressionAttributeValues[":pk"]["S"], {}).values()
        found = [item for item in of_account if _holds(KeyConditionExpression, item, names, ExpressionAttributeValues)]
        found.sort(key=lambda item: _sortable(item[sort]), reverse=not ScanIndexForward)
        if ExclusiveStartKey:
            keys = [item["sk"] for item in found]
            found = found[keys.index(ExclusiveStartKey["sk"]) + 1 :]
        page, rest = found[:Limit], found[Limit:]
        kept = [item for item in page if _holds(FilterExpression, item, names, ExpressionAttributeValues)] if FilterExpression else page
        more = {"LastEvaluatedKey": {"pk": page[-1]["pk"], "sk": page[-1]["sk"]}} if rest else {}
        return {"Items": kept, "Count": len(kept), "ScannedCount": len(page), **more}

    def _transact_write_items(self, *, TransactItems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: N803
        actions = [(kind, action, _key(kind, action)) for one in TransactItems for kind, action in one.items()]
        if len(actions) > ACTIONS_MAX or len({key for _, _, key in actions}) != len(actions):
            raise invalid("TransactWriteItems", "Transaction request cannot include multiple operations on one item")
        reasons = [self._reason(action, key) for _, action, key in actions]
        if any(reason["Code"] != "None" for reason in reasons):
            raise cancelled(reasons)
        after = [self._after(kind, action, key) for kind, action, key in actions]
        if any(item is not None and len(str(item)) > ITEM_BYTES_MAX for item in after):
            raise invalid("TransactWriteItems", "Item size has exceeded the maximum allowed size")
        changes = []
        for (kind, _, (pk, sk)), item in zip(actions, after, strict=True):
            if kind == "ConditionCheck":
                continue
            part = self.items.setdefault(pk, {})
            changes.append((part.pop(sk, None), item))
            if item is not None:
                part[sk] = item
        self._changed(changes)
        return {}

    def _reason(self, action: Mapping[str, Any], key: Key) -> dict[str, Any]:
        item = self.items.get(key[0], {}).get(key[1])
        condition = action.get("ConditionExpression")
        if not condition or _holds(condition, item or {}, action.get("ExpressionAttributeNames", {}), action.get("ExpressionAttributeValues", {})):
            return {"Code": "None"}
        told = {"Item": item} if item and action.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" else {}
        return {"Code": "ConditionalCheckFailed", **told}

    def _after(self, kind: str, action: Mapping[str, Any], key: Key) -> Item | None:
        match kind:
            case "Put":
                return as_stored(action["Item"])
            case "Update":
                before = self.items.get(key[0], {}).get(key[1]) or {"pk": {"S": key[0]}, "sk": {"S": key[1]}}
                sets = (part.split(" = ") for part in action["UpdateExpression"].removeprefix("SET ").split(", "))
                names, values = action.get("ExpressionAttributeNames", {}), action["ExpressionAttributeValues"]
                return as_stored({**before, **{names.get(name, name): values[value] for name, value in sets}})
            case "ConditionCheck":
                return self.items.get(key[0], {}).get(key[1])
            case _:
                return None

    def _at(self, key: Item) -> Item | None:
        return self.items.get(key["pk"]["S"], {}).get(key["sk"]["S"])


def _key(kind: str, action: Mapping[str, Any]) -> Key:
    key = action["Item"] if kind == "Put" else action["Key"]
    return key["pk"]["S"], key["sk"]["S"]


@cache
def _terms(expression: str) -> tuple[tuple[str, str, str, str], ...]:
    """The terms that must all hold: field, operator, first and second value."""
    if found := re.fullmatch(r"attribute_not_exists\((\S+)\)", expression):
        return ((found[1], "absent", "", ""),)
    pattern = r"(\S+) (?:(=|>) (\S+)|BETWEEN (\S+) AND (\S+))(?: AND |$)"
    terms = re.findall(pattern, expression)
    if not terms or re.sub(pattern, "", expression):
        raise NotImplementedError(f"this expression is not known here: {expression}")
    return tuple((field, operator or "between", first or low, high) for field, operator, first, low, high in terms)


def _holds(expression: str, item: Item, names: Mapping[str, str], values: Mapping[str, Attribute]) -> bool:
    for name, operator, first, second in _terms(expression):
        attribute = item.get(names.get(name, name))
        match operator:
            case "absent":
                holds = attribute is None
            case "=":
                holds = attribute == values[first]
            case ">":
                holds = attribute is not None and _sortable(attribute) > _sortable(values[first])
            case _:
                holds = attribute is not None and _sortable(values[first]) <= _sortable(attribute) <= _sortable(values[second])
        if not holds:
            return False
    return True


def _sortable(attribute: Attribute) -> Any:
    return int(attribute["N"]) if "N" in attribute else attribute["S"]


def cancelled(reasons: Sequence[dict[str, Any]]) -> ClientError:
    """The answer to a transaction that did not happen, with a reason for each of its actions."""
    return ClientError(
        {
            "Error": {"Code": "TransactionCanceledException", "Message": "Transaction cancelled"},
            "ResponseMetadata": {"HTTPStatusCode": 400},
            "CancellationReasons": list(reasons),  # type: ignore[typeddict-unknown-key] # botocore passes on what the answer holds
        },
        "TransactWriteItems",
    )
