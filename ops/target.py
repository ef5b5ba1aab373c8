"""Which system a command drives: the one that runs here, or the one that the options name."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.local.files import read_json
from infra.local.home import Home

Url = Annotated[str, typer.Option("--url", metavar="URL", help="Origin of the API. Default: the system that `cnop up` started.")]
HomeDir = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Folder of the running system. Default: $CNOP_HOME or .local.")]


class NoTarget(RuntimeError):
    """Nothing runs here and no address was given. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Addresses. `dynamodb_url` is empty where the ledger is Amazon's own; `is_embedded`: its engine takes any credentials. `kafka`: host:port."""

    origin_url: str
    dynamodb_url: str
    is_embedded: bool
    kafka: str
    redis_url: str


def find(url: str, home: Path | None) -> Target:
    """The target of a command. NoTarget where there is none."""
    from infra.local.config import LocalSettings  # noqa: PLC0415 - an operator's tool against a remote system needs no local services
    from infra.settings import Settings  # noqa: PLC0415

    state = _state(Home.at(home or LocalSettings().home))
    origin_url = url or state.get("origin_url", "")
    if not origin_url:
        raise NoTarget("Nothing runs here: start it with `cnop up`, or name a running system with --url.")
    is_local = bool(state) and origin_url.rstrip("/") == state.get("origin_url")
    settings = Settings()
    if is_local:
        return Target(origin_url, state["dynamodb_url"], state["engine"] != "external", state["kafka"], state["redis_url"])
    return Target(origin_url.rstrip("/"), settings.dynamodb_url, is_embedded=False, kafka=settings.kafka, redis_url=settings.redis_url)


def use_embedded_credentials() -> None:
    """For an embedded engine: never a user's own credentials, and no search for some."""
    from infra.local.machines import LOCAL_CREDENTIALS  # noqa: PLC0415

    os.environ.update(LOCAL_CREDENTIALS)


def _state(home: Home) -> dict[str, Any]:
    """Empty where nothing runs there: the state of a system that a crash or a reboot ended may name addresses that are another system's by now."""
    state = read_json(home.state_file)
    if not state:
        return {}
    from infra.local.census import keeper  # noqa: PLC0415 - needs the `local` extra, as the system that wrote the state did

    return state if keeper(home) else {}
