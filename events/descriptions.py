"""What events mean, in sentences: for the generated documents. Shapes come from the classes; what a type cannot say stands here.

A test holds that every type, topic and field of an event has its sentence.
"""

from dataclasses import dataclass
from typing import Final

from events.topics import ASSETS, DEAD_LETTERS, PRICES, REQUESTS, RESULTS
from schemas.market import ASSET_CHANGED, ASSET_LISTED, PRICE_CHANGED
from schemas.requests import INTERNAL, REQUEST_TYPES, DrainRequested


@dataclass(frozen=True, slots=True)
class TopicText:
    """A topic as a reader of the documents meets it. `name` is its name within them."""

    name: str
    title: str
    description: str
    key: str


TOPICS: Final[dict[str, TopicText]] = {
    REQUESTS: TopicText(
        "accountRequests",
        "Requests to accounts",
        "What was asked of accounts, in the order in which it is decided. The broker's append time (LogAppendTime) is the time of the decision. "
        "The same request may stand here more than once: the first record of a request id counts, settlement ignores later ones.",
        "username",
    ),
    RESULTS: TopicText(
        "accountResults",
        "Results of requests",
        "What happened: one result for each decided request. The results of an account are in one partition, in the order of their ce_sequence, "
        "which is the account's version and has no gaps. Written in transactions: a reader with isolation level read_committed sees each result once.",
        "username",
    ),
    PRICES: TopicText(
        "marketPrices",
        "Prices",
        "Prices of assets. Compacted: the latest price of every asset stays, older ones stay for a day at least.",
        "asset_id",
    ),
    ASSETS: TopicText(
        "marketAssets",
        "Assets",
        "Facts about assets. Compacted: the value is always the whole asset, so the latest record of a key is all that there is to know.",
        "asset_id",
    ),
    DEAD_LETTERS: TopicText(
        "deadLetters",
        "Dead letters",
        "Records that nobody can ever read: key, value and headers as they came, and dlq_* headers that say why and from where.",
        "the key of the original record",
    ),
}

SOURCES: Final = {
    REQUESTS: "urn:cnop:command-api",
    RESULTS: "urn:cnop:settlement",
    PRICES: "urn:cnop:market",
    ASSETS: "urn:cnop:market",
}

TYPE_SOURCES: Final = {
    **{name: ("urn:cnop:triggers",) for name, kind in REQUEST_TYPES.items() if kind in INTERNAL},
    **{name: ("urn:cnop:operator", "urn:cnop:settlement") for name, kind in REQUEST_TYPES.items() if kind is DrainRequested},
}
"""Types that come from elsewhere than the others of their topic."""


@dataclass(frozen=True, slots=True)
class ResultText:
    """A result type: the kind of request that it answers where that is always the same one, the status of its order where it has one, whether
    it moves anything, and whether it is a refusal, or about the parking of an account.
    """

    description: str
    kind: str | None
    order_status: str | None = None
    moves: bool = False
    is_refusal: bool = False
    is_parking: bool = False


RESULTS_OF: Final[dict[str, ResultText]] = {
    "cnop.account.DepositSettled.v1": ResultText("Cash came in.", "Deposit", moves=True),
    "cnop.account.DepositRejected.v1": ResultText("A deposit was refused; nothing moved.", "Deposit", is_refusal=True),
    "cnop.account.WithdrawalSettled.v1": ResultText("Cash left.", "Withdrawal", moves=True),
    "cnop.account.WithdrawalRejected.v1": ResultText("A withdrawal was refused; nothing moved.", "Withdrawal", is_refusal=True),
    "cnop.account.OrderAccepted.v1": ResultText(
        "An order with a price was accepted and is open: what its fill may take is held.", "OrderPlaced", "open", moves=True
    ),
    "cnop.account.OrderFilled.v1": ResultText(
        "An order was filled whole, at once or when a price reached it: what it held is free again, cash and holdings moved.", None, "completed", moves=True
    ),
    "cnop.account.OrderCancelled.v1": ResultText("An order ended without a fill, and its reason says why; what it held is free again.", None, "cancelled"),
    "cnop.account.OrderExpired.v1": ResultText("An open order reached its time; what it held is free again.", None, "expired", moves=True),
    "cnop.account.OrderRejected.v1": ResultText("An order was refused; nothing moved.", "OrderPlaced", is_refusal=True),
    "cnop.account.OrderCancelRejected.v1": ResultText(
        "A cancellation was refused: there is no such order, or it is closed already, and the refusal tells how it stands.",
        "OrderCancelRequested",
        is_refusal=True,
    ),
    "cnop.account.CommandFenced.v1": ResultText("A command was fenced before it was decided, and will never happen.", "FenceRequested"),
    "cnop.account.AccountParked.v1": ResultText(
        "An account was parked: its requests from this one on wait, in their order, until an operator lets them be decided. Nothing moved. "
        "Nobody asked for it: request_id is an id of its own.",
        "AccountParked",
        is_parking=True,
    ),
    "cnop.account.AccountDrained.v1": ResultText(
        "Requests that waited in a parked account were decided; their results come right before this one. Or none was, and the cause says why.",
        "DrainRequested",
        is_parking=True,
    ),
}

MARKET: Final = {
    PRICE_CHANGED: "The price of an asset. Prices of an asset are numbered from 1 (ce_sequence and sequence); a reader keeps the one with the largest number.",
    ASSET_LISTED: "An asset is listed: published for every asset whenever the market process starts, so a repetition changes nothing.",
    ASSET_CHANGED: "Facts of a listed asset changed.",
}

HEADERS: Final = {
    "ce_specversion": "CloudEvents version",
    "ce_id": "Id of the event, the same at every emission: dedupe by it. Of a request it is the request id",
    "ce_source": "The process that made the event",
    "ce_type": "Type of the event; its last part is the version of the payload's form",
    "ce_subject": "Whom or what the event is about; equal to the record's key",
    "ce_time": "When it happened, RFC 3339 in UTC with milliseconds. Of a result: the time of the decision",
    "ce_dataschema": "Name of the payload's JSON Schema",
    "content-type": "Media type of the value",
    "ce_correlationid": "The same for everything that came of one call",
    "ce_causationid": "Id of the event that caused this one: of a result, the request id",
    "ce_sequence": "Place among the events of the same subject, 20 digits with leading zeros",
    "traceparent": "W3C Trace Context; may differ between emissions of the same event",
    "tracestate": "W3C Trace Context",
    "x-request-id": "X-Request-ID of the HTTP call that all this began with, or the id of a background run",
    "cnop-reply-to": "Redis channel on which a door waits for the outcome; of no use to others",
}

DEAD_LETTER_HEADERS: Final = {
    "dlq_reason": "What was wrong with the record: header or field, and the rule, at most 500 characters",
    "dlq_topic": "Topic from which it was read",
    "dlq_partition": "Partition from which it was read, decimal",
    "dlq_offset": "Offset at which it was read, decimal",
    "dlq_at": "The record's timestamp, RFC 3339 in UTC",
    "x-original-topic": "Topic in which it first was, also after it was sent again and failed again",
}

FIELDS: Final[dict[str, str]] = {
    "Deposit.username": "Whose account",
    "Deposit.amount": "How much, above zero, at most the currency's decimals",
    "Deposit.stamp": "What the door added",
    "Deposit.currency": "ISO 4217 code",
    "Withdrawal.username": "Whose account",
    "Withdrawal.amount": "How much, above zero, at most the currency's decimals",
    "Withdrawal.stamp": "What the door added",
    "Withdrawal.currency": "ISO 4217 code",
    "OrderPlaced.username": "Whose account",
    "OrderPlaced.asset_id": "The asset to be bought or sold",
    "OrderPlaced.order_type": "At the market; or when the price falls to a limit (limit_buy) or a stop (stop_loss_sell), or rises to one (the others)",
    "OrderPlaced.quantity": "In units of the asset, above zero, at most the asset's decimals",
    "OrderPlaced.stamp": "What the door added",
    "OrderPlaced.price": "The limit or the stop, in the home currency; not of market orders",
    "OrderPlaced.client_order_id": "The client's own name of the order, once per account",
    "OrderPlaced.time_in_force": "gtc until cancelled, gtd until expires_at, day until 00:00 UTC, ioc and fok at once or not at all",
    "OrderPlaced.expires_at": "When the order ends unfilled; of gtd only",
    "OrderCancelRequested.username": "Whose account",
    "OrderCancelRequested.order_id": "The order that is not wanted any more",
    "OrderTriggered.username": "Whose account",
    "OrderTriggered.order_id": "The order that is due",
    "OrderTriggered.price": "The market's price that reached it, in the home currency: what it fills at",
    "OrderTriggered.priced_at": "When that price was made; an order acts only on prices that were not made before it was placed",
    "OrderTriggered.sequence": "Number of that price among those of the asset; an order acts only on prices later than its own quote",
    "OrderExpiryReached.username": "Whose account",
    "OrderExpiryReached.order_id": "The order whose time has ended",
    "OrderRevoked.username": "Whose account",
    "OrderRevoked.order_id": "The order that the platform takes back",
    "OrderRevoked.reason": "Why: its asset is not traded any more",
    "FenceRequested.username": "Whose command; the record's ce_id is the request id of the command",
    "DrainRequested.username": "Whose waiting requests; the record's ce_id names this step of draining",
    "LimitStamp.day_limit": "The most that may move on one day (UTC), in the request's currency",
    "OrderStamp.quote": "The price that the door saw",
    "OrderStamp.asset": "Facts of the asset that the decision needs",
    "OrderStamp.total_max": "The most that one order may be worth, in the home currency",
    "Quote.price": "Of one whole unit, in the home currency",
    "Quote.sequence": "Number of the price among those of the asset",
    "Quote.quoted_at": "When the door saw it",
    "Quote.valid_until": "A market order that is decided later is refused (price-expired)",
    "AssetFacts.quantity_scale": "Decimals of a quantity",
    "AssetFacts.minimum_quantity": "The least quantity of an order",
    "AssetFacts.is_active": "Whether it is traded",
    "AssetFacts.fee_bps": "Fee in basis points of the order's value",
    "Result.username": "Whose account",
    "Result.request_id": "Id of the request that this is the outcome of",
    "Result.version": "The account's version after it: 1, 2, 3, … without gaps",
    "Result.at": "Time of the decision: the broker's append time of the request, never earlier than the account's last decision",
    "Result.kind": "What was asked",
    "Result.payload": "The request as the client made it, flat, each value as text; what the door added is left out",
    "Result.lines": "The lines of the account that this touched, with their values after it; never the whole account",
    "Result.postings": "Double entry: legs sum to zero per unit. Empty for a refusal",
    "Result.refusal": "Why it was refused; absent where it was not",
    "Result.parking": "What became of a parked account",
    "Parking.status": "Status of the account from now on",
    "Parking.cause": "Why the account was parked, or why its draining stopped before the next request; absent where it did not stop",
    "Parking.drained": "Ids of the requests whose results come right before this one",
    "Parking.goes_on": "Whether a further step was asked for together with this one",
    "Lines.counters": "Running figures of the account; not to be taken from results about parking, which do not know them",
    "Lines.cash": "Cash lines by currency",
    "Lines.positions": "Positions by asset id",
    "Lines.order": "The order, where this is about one",
    "CashLine.available": "Free cash",
    "CashLine.held": "Held for open orders",
    "CashLine.updated_at": "Time of the last change",
    "Position.available": "Free quantity",
    "Position.held": "Held for open orders",
    "Position.cost_basis": "What all that is owned cost, fees included, in the home currency",
    "Position.realised": "Profit or loss of all sales so far, in the home currency",
    "Position.created_at": "Time of the first purchase",
    "Position.updated_at": "Time of the last change",
    "Counters.day": "The day (UTC) that deposited and withdrawn count, YYYY-MM-DD",
    "Counters.deposited": "Deposited on that day, in the home currency",
    "Counters.withdrawn": "Withdrawn on that day, in the home currency",
    "Counters.transactions": "Movements of cash so far",
    "Counters.orders": "Orders so far",
    "Counters.open_orders": "Orders that are open now",
    "Order.order_id": "ord_ and 32 hex digits",
    "Order.asset_id": "The asset",
    "Order.order_type": "At the market; or when the price falls to a limit (limit_buy) or a stop (stop_loss_sell), or rises to one (the others)",
    "Order.quantity": "What was ordered, in units of the asset",
    "Order.status": "open, or how it ended",
    "Order.created_version": "The account's version at placing",
    "Order.created_at": "When it was placed",
    "Order.updated_at": "When it last changed",
    "Order.quote_price": "The price that the door saw, in the home currency",
    "Order.quote_sequence": "Number of that price among those of the asset",
    "Order.fee_bps": "Fee in basis points of the value",
    "Order.price": "The limit or the stop, in the home currency: the order is due at it or at a better one; absent for market orders",
    "Order.filled_quantity": "0 or the whole quantity",
    "Order.average_price": "Price of the fill; absent without one",
    "Order.total_amount": "Value of the fill in the home currency, without the fee; before and without a fill, what it is worth at its own price",
    "Order.fee": "Fee taken, in the home currency",
    "Order.client_order_id": "The client's own name of the order",
    "Order.time_in_force": "gtc until cancelled, gtd until expires_at, day until 00:00 UTC, ioc and fok at once or not at all",
    "Order.expires_at": "When the order ends unfilled; of gtd and day only",
    "Order.held": "What is held for it while it is open: home currency for a buy, units of the asset for a sale",
    "Order.updated_version": "The account's version at its last change",
    "Order.reason": "Why it was cancelled; absent where it was not",
    "Posting.account": "customer is what the account's owner can dispose of, held what open orders hold; world, market and fees are the house's",
    "Posting.unit": "Currency or asset",
    "Posting.amount": "What comes to that account; negative for what leaves it",
    "Refusal.code": "A code of the catalogue of problems, such as insufficient-funds",
    "Refusal.detail": "A sentence for the user",
    "Refusal.pointer": "JSON pointer to the field that it is about",
    "Refusal.order": "The order as it stands, where it stood in the way",
    "PriceChanged.asset_id": "The asset",
    "PriceChanged.price": "Of one whole unit, in the home currency",
    "PriceChanged.sequence": "Number among the prices of the asset, from 1",
    "PriceChanged.at": "When it was made",
    "PriceChanged.volume": "What was traded in the market since the price before it, in units of the asset",
    "PriceChanged.figures": "What the price is shown beside; null in records of releases that kept no history",
    "Figures.high_24h": "Highest price of the last 24 full hours and the running one",
    "Figures.low_24h": "Lowest price of that time",
    "Figures.volume_24h": "What was traded in that time, each hour at its last price, in the home currency",
    "Figures.highest": "Highest price since history is kept",
    "Figures.highest_at": "When it was that for the first time",
    "Figures.lowest": "Lowest price since history is kept",
    "Figures.lowest_at": "When it was that for the first time",
    "Figures.price_24h_ago": "Price at the beginning of that time; null where there was none yet",
    "Figures.price_7d_ago": "Price 7 days before the running hour; null where there was none yet",
    "Figures.price_30d_ago": "Price 30 days before the running hour; null where there was none yet",
    "Asset.asset_id": "Id, such as BTC",
    "Asset.name": "Name",
    "Asset.description": "A sentence or two",
    "Asset.category": "Kind of asset",
    "Asset.symbol": "Ticker in lower case",
    "Asset.image": "Address of a picture",
    "Asset.market_cap_rank": "Rank by market capitalisation, from 1",
    "Asset.circulating_supply": "Whole units in circulation",
    "Asset.total_supply": "Whole units that exist",
    "Asset.max_supply": "Whole units that there can ever be; null where that is unknown or without a bound",
    "Asset.price_usd": "Starting price of one whole unit; the current one is on the prices topic",
    "Asset.ath": "Highest price known, in the home currency",
    "Asset.ath_date": "Its day (UTC), YYYY-MM-DD",
    "Asset.atl": "Lowest price known, in the home currency",
    "Asset.atl_date": "Its day (UTC), YYYY-MM-DD",
    "Asset.quantity_scale": "Decimals of a quantity",
    "Asset.price_scale": "Decimals of a price",
    "Asset.minimum_quantity": "The least quantity of an order",
    "Asset.volatility": "Standard deviation of the yearly log return, as a fraction: 0.55 is 55 %",
    "Asset.is_active": "Whether it is traded",
}
