"""`pipelines`: every command, and how each ending is told: words on stderr, a code for programs."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from shared import VERSION
from shared.cli import (
    audit,
    authoring,
    coverage,
    credentials,
    dead_letters,
    focus,
    keys,
    orgs,
    runs,
    schedules,
    show,
    subscriptions,
)
from shared.cli.signals import end_on_signals
from shared.cli.stop import Code, Stop, of_config, of_unavailable
from shared.errors import ConfigError, Unavailable

_START, _RUNS, _ONBOARDING, _AUTHORS = "Start here", "Runs", "Onboarding", "For authors"
_OPERATORS = "For operators"

app = typer.Typer(
    name="pipelines",
    help="Cost pipelines: run them, follow them, trust their numbers.",
    epilog="PIPELINES_URL says where the API is (default http://127.0.0.1:8001) and "
    "PIPELINES_API_KEY whose key is used; on the machine of `pipelines dev` no key is needed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pipelines {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


@app.command(rich_help_panel=_START)
def demo(
    rows: Annotated[int, typer.Option(help="Rows of the month.", min=1, max=100_000_000)] = 100_000,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the data in this folder, which must be new."),
    ] = None,
) -> None:
    """A month of AWS costs, end to end on this machine, exact to the last decimal."""
    from shared.cli.demo import demo as run_demo  # noqa: PLC0415  # it imports the engine

    raise typer.Exit(run_demo(rows, keep))


@app.command(rich_help_panel=_START)
def dev(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65_535)] = 8001,
) -> None:
    """Serve the whole system in this process, with its data in PIPELINES_DATA."""
    from shared.cli.dev import dev as serve  # noqa: PLC0415  # it imports the engine

    serve(host, port)


app.command(rich_help_panel=_RUNS, epilog=runs.EXIT_CODES)(runs.run)
app.command(rich_help_panel=_RUNS)(runs.status)
app.command(rich_help_panel=_RUNS)(runs.logs)
app.command(rich_help_panel=_RUNS)(runs.history)
app.command(rich_help_panel=_RUNS)(runs.evidence)
app.command(rich_help_panel=_RUNS)(runs.cancel)
app.command(rich_help_panel=_RUNS, epilog=runs.EXIT_CODES)(runs.retry)
app.command(rich_help_panel=_RUNS)(runs.quota)
app.command(rich_help_panel=_RUNS)(runs.catalog)
app.command(rich_help_panel=_RUNS)(coverage.coverage)
app.add_typer(schedules.app, name="schedules", rich_help_panel=_RUNS)
app.add_typer(orgs.app, name="orgs", rich_help_panel=_ONBOARDING)
app.add_typer(keys.app, name="keys", rich_help_panel=_ONBOARDING)
app.add_typer(credentials.app, name="credentials", rich_help_panel=_ONBOARDING)
app.add_typer(subscriptions.app, name="subscriptions", rich_help_panel=_ONBOARDING)


@app.command("platform-key", rich_help_panel=_ONBOARDING)
def platform_key(
    name: Annotated[str, typer.Argument(help="Whose it is: ops, terraform.")],
) -> None:
    """Make an operator's key of a system in the cloud, with the settings of its functions."""
    from shared.cli.platform import platform_key as make  # noqa: PLC0415  # it opens a database

    make(name)


app.add_typer(dead_letters.app, name="dead-letters", rich_help_panel=_OPERATORS)
app.command(rich_help_panel=_OPERATORS)(audit.audit)
app.command(rich_help_panel=_AUTHORS)(authoring.validate)
app.command(rich_help_panel=_AUTHORS)(authoring.schema)
app.add_typer(focus.app, name="focus", rich_help_panel=_AUTHORS)


def main() -> None:
    """Runs the command of the process's arguments and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal of another encoding
    end_on_signals()
    try:
        app(prog_name="pipelines")
    except Stop as stop:
        _end(stop)
    except ConfigError as error:
        _end(of_config(error))
    except Unavailable as error:
        _end(of_unavailable(error))
    except KeyboardInterrupt:
        sys.exit(Code.INTERRUPTED)


def _end(stop: Stop) -> NoReturn:
    show.problem(stop)
    sys.exit(stop.code)
