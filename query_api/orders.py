"""Orders: a list with filters, and one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from infra.cache import ORDERS_HELD_MAX, Views
from infra.http import ProblemError
from query_api.cursors import Cursors, List, Place
from query_api.fresh import Asked, answer, answer_again, fresh
from query_api.given import GivenLedger
from query_api.pages import LIMIT, Cursor, Limit, Page, Source, collect, cut
from schemas.ledger import Order, OrderStatus
from schemas.requests import ORDER_ID_ASKED_PATTERN, OrderType
from schemas.rows import order_detail, order_view
from schemas.views import OrderDetailAnswer, OrderPage

FILTERED_COUNT: Final = ORDERS_HELD_MAX
"""Orders fetched at once where a filter may leave few of them."""

AssetFilter = Annotated[str | None, Parameter(pattern=r"^[A-Za-z0-9]{1,10}$", description="Orders of one asset")]
TypeFilter = Annotated[OrderType | None, Parameter(description="Orders of one type")]
StatusFilter = Annotated[OrderStatus | None, Parameter(description="Orders of one status")]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which orders are wanted; None wants all."""

    asset_id: str | None
    order_type: OrderType | None
    status: OrderStatus | None

    def rows(self, order: Order) -> list[Order]:
        """The order, if it is wanted."""
        pairs = ((self.asset_id, order.asset_id), (self.order_type, order.order_type), (self.status, order.status))
        return [order] if all(wanted in {None, found} for wanted, found in pairs) else []

    def of(self, username: str) -> List:
        """The list of an account that a cursor is bound to."""
        return List(username, "orders", {"asset_id": self.asset_id, "order_type": self.order_type, "status": self.status})


EVERY: Final = Filter(None, None, None)


@get("/orders", tags=["orders"], summary="List orders", responses={200: ResponseSpec(OrderPage, description="A page", generate_examples=False)})
async def list_orders(
    *,
    by: Asked,
    views: Views,
    ledger: GivenLedger,
    cursors: Cursors,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
    asset_id: AssetFilter = None,
    order_type: TypeFilter = None,
    status: StatusFilter = None,
) -> Response[bytes]:
    """Orders, newest first. With filters a page may be short, and even empty, although more follow: `has_more` tells."""
    wanted = Filter(asset_id.upper() if asset_id else None, order_type, status) if asset_id or order_type or status else EVERY
    after = None if cursor is None else cursors.read(wanted.of(by.username), cursor)
    count = limit + 1 if wanted is EVERY else FILTERED_COUNT
    shown = await fresh(views, by, lambda: views.orders(by.username, count if after is None else 1))
    recent = shown.value
    reaches = after is None and recent.reaches(count)

    def body(page: Page[Order]) -> OrderPage:
        next_cursor = page.rest and cursors.make(wanted.of(by.username), page.rest)
        return OrderPage(data=list(map(order_view, page.rows)), has_more=page.rest is not None, next_cursor=next_cursor)

    if reaches and wanted is EVERY:
        return await answer_again(by, shown, f"orders {limit}", (recent, cursors.hour()), lambda: body(cut(_placed(recent.rows), limit)))

    async def orders(before: int | None, count: int) -> Sequence[Order]:
        """From the recent ones as far as they reach, then from the ledger, whose rows are at least as new as the version told."""
        return recent.rows if before is None and reaches else await ledger.orders(by.username, before=before, limit=count)

    page = await collect(Source(orders, lambda order: order.created_version, wanted.rows), after, limit, count=count)
    if after is not None:
        return await answer(by, shown, body(page))
    return await answer_again(by, shown, f"orders {wanted} {limit}", (page, cursors.hour()), lambda: body(page))


@get(
    "/orders/{order_id:str}",
    tags=["orders"],
    summary="Show an order",
    responses={200: ResponseSpec(OrderDetailAnswer, description="The order", generate_examples=False)},
)
async def get_order(order_id: Annotated[str, Parameter(pattern=ORDER_ID_ASKED_PATTERN)], by: Asked, views: Views) -> Response[bytes]:
    """One order of the caller's. Another user's is not found, like one that there is not."""
    shown = await fresh(views, by, lambda: views.order(by.username, order_id))
    if shown.value is None:
        raise ProblemError("not-found", "You have no such order.")
    return await answer(by, shown, OrderDetailAnswer(data=order_detail(shown.value)))


ROUTES: Final[tuple[Any, ...]] = (list_orders, get_order)


def _placed(orders: Sequence[Order]) -> list[tuple[Place, Order]]:
    """Orders with their places."""
    return [(Place(order.created_version), order) for order in orders]
