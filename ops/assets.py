"""`cnop assets`: which assets are listed and traded, and `cnop assets deactivate ID…`, `cnop assets activate ID…`.

A change is in the table first, then on the topic; the command waits until the API shows it. Orders that are in the log already were
taken with the facts of their time, and settle. Everything may be repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx
import typer
from rich.table import Table

from events.bus import OutcomeUnknown, Unavailable
from events.topics import ASSETS, BrokerError
from infra.clock import Clock, Ids, SystemClock, SystemIds
from infra.dynamo import DynamoUnavailable
from infra.market import MEMORY_S, MarketStore, at_scale
from ops.client import API
from ops.operator import err, out, print_rows, publisher, stopped, store
from ops.target import HomeDir, NoTarget, Url, find
from processors.market import Publisher, asset_changed
from schemas.market import Asset, PriceChanged
from schemas.money import plain

POLL_S: Final = 0.2
SHOWN_S: Final = 15.0
"""How long the API may take to show a change before the command says that it does not."""
ANSWER_S: Final = 5.0

app = typer.Typer(help="Listed assets: show them, and say which are traded.", add_completion=False, pretty_exceptions_show_locals=False)
Names = Annotated[list[str], typer.Argument(metavar="ID...", help="Asset ids, in any case.")]


class UnknownAsset(ValueError):
    """There are no assets of these ids; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Machines:
    """The table, the API, and a way to where events go."""

    store: MarketStore
    api: httpx.AsyncClient
    bus: Callable[[], AbstractAsyncContextManager[Publisher]]


@dataclass(frozen=True, slots=True)
class Row:
    """What is told of an asset. `price` is the latest one in the home currency; None where there never was one."""

    asset_id: str
    name: str
    category: str
    is_active: bool
    price: str | None


@app.callback(invoke_without_command=True)
def assets(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each asset.")] = False,
    url: Url = "",
    home: HomeDir = None,
) -> None:
    """List the assets by market capitalisation rank, with their latest price."""
    if context.invoked_subcommand:
        return
    rows = _run(url, home, lambda machines: listed(machines.store))
    print_rows(rows, _show, as_json=as_json)


@app.command()
def deactivate(ids: Names, url: Url = "", home: HomeDir = None) -> None:
    """Take assets out of trading: new orders are refused with `asset-inactive`. They stay listed, and what people hold of them stays theirs."""
    _change(ids, url, home, is_active=False)


@app.command()
def activate(ids: Names, url: Url = "", home: HomeDir = None) -> None:
    """Let assets be traded again."""
    _change(ids, url, home, is_active=True)


async def listed(store: MarketStore) -> list[Row]:
    """The assets by market capitalisation rank."""
    assets, prices = await asyncio.gather(store.assets(), store.prices())
    ranked = sorted(assets.values(), key=lambda asset: (asset.market_cap_rank, asset.asset_id))
    return [_row(asset, prices.get(asset.asset_id)) for asset in ranked]


async def change(machines: Machines, ids: Sequence[str], clock: Clock, new: Ids, *, is_active: bool) -> list[Asset]:
    """Store and publish that assets are traded or not; what they are then. UnknownAsset where one is not listed: then nothing was changed."""
    wanted = list(dict.fromkeys(name.upper() for name in ids))
    known = await machines.store.assets()
    if unknown := [name for name in wanted if name not in known]:
        raise UnknownAsset(f"There is no asset {', '.join(unknown)}. Nothing was changed.")
    changed: list[Asset] = []
    async with machines.bus() as bus:
        for name in wanted:
            asset = await machines.store.set_active(name, is_active=is_active)
            if asset is None:
                raise UnknownAsset(f"{name} is not listed any more.")
            await _publish(bus, asset, clock, new)
            changed.append(asset)
    return changed


async def shown(client: httpx.AsyncClient, changed: Sequence[Asset], *, within_s: float = SHOWN_S) -> bool:
    """Whether the API at the client's base address shows these assets as they are, within a bound; every door does then.

    What one door shows is in the cache that all of them read again after `MEMORY_S`.
    """
    loop = asyncio.get_running_loop()
    deadline, waiting = loop.time() + within_s, list(changed)
    while waiting and loop.time() < deadline:
        if await _is_shown(client, waiting[0]):
            waiting.pop(0)
        else:
            await asyncio.sleep(POLL_S)
    await asyncio.sleep(MEMORY_S)
    return not waiting


async def _is_shown(client: httpx.AsyncClient, asset: Asset) -> bool:
    try:
        answer = await client.get(f"{API}/inventory/assets/{asset.asset_id}")
    except httpx.TransportError:
        return False
    return answer.status_code == httpx.codes.OK and answer.json()["data"]["is_active"] == asset.is_active


def _row(asset: Asset, price: PriceChanged | None) -> Row:
    return Row(asset.asset_id, asset.name, asset.category, asset.is_active, plain(at_scale(price.price, asset.price_scale)) if price else None)


async def _publish(bus: Publisher, asset: Asset, clock: Clock, new: Ids) -> None:
    await bus.publish(ASSETS, asset_changed(asset, new.new(), clock.now()))


def _change(ids: list[str], url: str, home: Any, *, is_active: bool) -> None:
    async def work(machines: Machines) -> tuple[list[Asset], bool]:
        changed = await change(machines, ids, SystemClock(), SystemIds(), is_active=is_active)
        return changed, await shown(machines.api, changed)

    changed, is_shown = _run(url, home, work)
    names = ", ".join(asset.asset_id for asset in changed)
    err.print(f"{names}: {'traded' if is_active else 'not traded any more'}.", markup=False)
    if not is_shown:
        raise stopped(f"The API does not show it after {SHOWN_S:.0f} s: does the projector run? The change is stored and on the topic.")


def _run(url: str, home: Any, work: Callable[[Machines], Awaitable[Any]]) -> Any:
    try:
        return asyncio.run(_connected(url, home, work))
    except (NoTarget, UnknownAsset) as error:
        raise stopped(str(error)) from None
    except DynamoUnavailable as error:
        raise stopped(f"The table of assets does not answer ({error}): repeat the command. An engine elsewhere is named by CNOP_DYNAMODB_URL.") from None
    except (BrokerError, Unavailable, OutcomeUnknown) as error:
        raise stopped(f"The change may be stored, but it is not known to be on the topic ({error}). Repeat the command: that does no harm.") from None


async def _connected(url: str, home: Any, work: Callable[[Machines], Awaitable[Any]]) -> Any:
    target = find(url, home)
    async with store(target) as dynamo, httpx.AsyncClient(base_url=target.origin_url, timeout=ANSWER_S) as api:
        return await work(Machines(MarketStore(dynamo), api, lambda: publisher(target.kafka)))


def _show(rows: Sequence[Row]) -> None:
    table = Table("asset", "name", "category", "price", "traded")
    for row in rows:
        table.add_row(row.asset_id, row.name, row.category, row.price or "-", "yes" if row.is_active else "no")
    out.print(table)
