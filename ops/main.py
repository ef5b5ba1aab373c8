"""The operator's door: the `cnop` command line.

Each command imports what it needs when it runs, so that `cnop --help` and completion stay fast.
"""

import importlib
from enum import StrEnum

import typer

from ops import local

app = typer.Typer(name="cnop", help="Cloud Native Order Processor: run it, look at it, drive it.", no_args_is_help=True, pretty_exceptions_show_locals=False)


class Process(StrEnum):
    """What `cnop run` can be."""

    ORIGIN = "origin"
    COMMAND_API = "command-api"
    QUERY_API = "query-api"
    SETTLEMENT = "settlement"
    PROJECTOR = "projector"
    TRIGGERS = "triggers"
    MARKET = "market"


app.command()(local.up)
app.command()(local.down)
app.command()(local.status)
app.command()(local.logs)


@app.command()
def provision() -> None:
    """Create topics and tables where they are missing; stop where one differs from what is wanted."""
    from infra.settings import Settings  # noqa: PLC0415
    from ops.provision import provision as run  # noqa: PLC0415

    run(Settings())


@app.command()
def keys() -> None:
    """Make the keys of access tokens and command ids where they are missing, at the paths of the settings."""
    from infra.local import keys as local_keys  # noqa: PLC0415
    from infra.local.home import LocalError  # noqa: PLC0415
    from infra.settings import Settings  # noqa: PLC0415

    settings = Settings()
    try:
        local_keys.ensure(settings.jwt_private_key_file, settings.jwt_public_key_file, settings.secret_file)
    except LocalError as error:
        raise SystemExit(f"cnop keys: {error}") from None


@app.command()
def run(name: Process) -> None:
    """Be one process of the system until told to stop; its settings are `CNOP_*` variables. For process managers and containers."""
    from infra.settings import Settings  # noqa: PLC0415

    settings = Settings()
    match name:
        case Process.ORIGIN:
            from ops.origin import run as run_origin  # noqa: PLC0415

            run_origin(settings)
        case Process.COMMAND_API:
            from command_api.main import run as run_command_api  # noqa: PLC0415

            run_command_api(settings)
        case Process.QUERY_API:
            from query_api.main import run as run_query_api  # noqa: PLC0415

            run_query_api(settings)
        case Process.SETTLEMENT | Process.PROJECTOR | Process.TRIGGERS | Process.MARKET:
            from processors.main import run as run_processor  # noqa: PLC0415

            run_processor(name.value, settings)


def _lazily(name: str, short_help: str) -> None:
    """Add the command `ops.<name>.<name>`; its module is imported when it is called (its own options are in `cnop NAME --help`)."""

    @app.command(name, help=short_help, add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def command(context: typer.Context) -> None:
        single = typer.Typer(pretty_exceptions_show_locals=False)
        single.command(name)(getattr(importlib.import_module(f"ops.{name}"), name))
        single(args=context.args, prog_name=f"cnop {name}")


@app.command("parked", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def parked(context: typer.Context) -> None:
    """List parked accounts, and drain them (`cnop parked drain USERNAME`)."""
    from ops.parked import app as parked_app  # noqa: PLC0415

    parked_app(args=context.args, prog_name="cnop parked")


@app.command("assets", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def assets(context: typer.Context) -> None:
    """List assets, and say which are traded (`cnop assets deactivate ID`)."""
    from ops.assets import app as assets_app  # noqa: PLC0415

    assets_app(args=context.args, prog_name="cnop assets")


@app.command("projections", add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def projections(context: typer.Context) -> None:
    """Look at the account views, build them anew, switch (`cnop projections rebuild`)."""
    from ops.projections import app as projections_app  # noqa: PLC0415

    projections_app(args=context.args, prog_name="cnop projections")


_lazily("demo", "Drive the running system as clients would, and prove that its books add up.")
_lazily("load", "Take requests from a CSV or NDJSON file.")


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
