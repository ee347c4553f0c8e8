"""What commands have in common: --org, --json, and the client with the organization they mean."""

from __future__ import annotations

from typing import Annotated, NamedTuple, TypeAlias

import typer

from shared.cli.client import Client, connect
from shared.cli.stop import Code, Stop
from shared.settings import read_client_settings

Org: TypeAlias = Annotated[
    str | None,
    typer.Option("--org", "-o", metavar="ORG", help="The organization (default: PIPELINES_ORG)."),
]
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print the API's answer as it is, for programs.")
]


class Session(NamedTuple):
    """A client, and the organization that the command is about."""

    client: Client
    org: str


def client(*, as_json: bool) -> Client:
    """The client, for commands of the platform. Raises ConfigError, Stop."""
    return connect(read_client_settings(), verbatim=as_json)


def session(org: str | None, *, as_json: bool) -> Session:
    """The client and the organization. Raises ConfigError, Stop when nobody said which one."""
    settings = read_client_settings()
    wanted = org or settings.org
    if not wanted:
        raise Stop(
            Code.BAD_INPUT, "which organization? give --org ORG, or set PIPELINES_ORG once for all"
        )
    return Session(connect(settings, verbatim=as_json), wanted)


def pairs(name: str, given: list[str]) -> dict[str, str]:
    """The values of a repeated `--name key=value`. Raises Stop with what is wrong of all of them."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise Stop(Code.BAD_INPUT, f"--{name} {text!r}: is key=value")
        if key in found:
            raise Stop(Code.BAD_INPUT, f"--{name} {key}: is given twice")
        found[key] = value
    return found
