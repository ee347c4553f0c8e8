"""`pipelines credentials`: what an organization's pipelines log in with at its providers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.cli import show
from shared.cli.client import Client
from shared.cli.options import AsJson, Org, pairs, session
from shared.cli.show import Column
from shared.cli.stop import Code, Stop

app = typer.Typer(
    help="Credentials of an organization for its providers, sealed at rest.", no_args_is_help=True
)

Provider = Annotated[str, typer.Argument(help="Whose: aws, gcp, openai.")]
CredentialId = Annotated[str, typer.Argument(metavar="ID", help="Its name: main, payer_2.")]


@app.command("list")
def list_credentials(
    provider: Annotated[
        str | None, typer.Argument(metavar="[PROVIDER]", help="Of this provider only.")
    ] = None,
    org: Org = None,
    as_json: AsJson = False,
) -> None:
    """The active credentials, without their secrets."""
    client, org = session(org, as_json=as_json)
    answer = client.get("admin", "orgs", org, "credentials", *([provider] if provider else []))
    if as_json:
        show.verbatim(answer)
        return
    rows = answer.body["credentials"]
    if not rows:
        show.lines(
            f"{org} has no {f'{provider} ' if provider else ''}credential. "
            f"Add one: pipelines credentials put {provider or 'PROVIDER'} ID --org {org}"
        )
        return
    columns = (
        Column("provider"),
        Column("credential"),
        Column("version", right=True),
        Column("changed (UTC)"),
        Column("metadata"),
    )
    show.lines(
        show.table(
            columns,
            [
                (
                    row["provider"],
                    row["credential_id"],
                    show.count(row["version"]),
                    show.utc(row["updated_at"]),
                    show.value(row.get("metadata", {})),
                )
                for row in rows
            ],
        )
    )


@app.command()
def put(
    provider: Provider,
    credential_id: CredentialId,
    org: Org = None,
    secret: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="JSON file with the secret fields, or - for stdin. Never given as an argument: "
            "those can be read by everybody on the machine.",
        ),
    ] = None,
    of_type: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="Which of the provider's types of credentials it is, where its fields do not say.",
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="What is not secret: source=file:exports. May be repeated."
        ),
    ] = None,
    check_it: Annotated[
        bool, typer.Option("--check", help="Then ask the provider whether it is good.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Store a credential, or a new version of it, and make it the active one."""
    client, org = session(org, as_json=as_json)
    body: dict[str, Any] = {
        "secret": {} if secret is None else _secret(secret),
        "metadata": pairs("metadata", metadata or []),
    }
    if of_type is not None:
        body["type"] = of_type
    answer = client.call(
        "PUT", "admin", "orgs", org, "credentials", provider, credential_id, body=body
    )
    if as_json:
        show.verbatim(answer)
    else:
        _show_stored(org, answer.body)
    if check_it:
        _check(client, org, provider, credential_id, as_json=as_json)


@app.command()
def check(
    provider: Provider, credential_id: CredentialId, org: Org = None, as_json: AsJson = False
) -> None:
    """Ask the provider whether a credential is good. Exit code 1 if not, 4 if nobody could be asked."""
    client, org = session(org, as_json=as_json)
    _check(client, org, provider, credential_id, as_json=as_json)


def _show_stored(org: str, made: dict[str, Any]) -> None:
    show.lines(
        show.record(
            [
                ("credential", f"{made['credential_id']} of {org} for {made['provider']}"),
                ("version", f"{made['version']} (active)"),
                ("metadata", show.value(made.get("metadata", {}))),
            ]
        )
    )


def _check(client: Client, org: str, provider: str, credential_id: str, *, as_json: bool) -> None:
    path = ("admin", "orgs", org, "credentials", provider, credential_id, "check")
    answer = client.call("POST", *path)
    found = answer.body
    if as_json:
        show.verbatim(answer)
    else:
        told = ("result", "checked", "needs", "error", "message")
        show.lines(show.record([(name, found[name]) for name in told if found[name]]))
    code = {"refused": Code.FAILED, "unreachable": Code.UNREACHABLE}.get(found["result"], Code.OK)
    if code is not Code.OK:
        raise typer.Exit(code)


@app.command()
def remove(
    provider: Provider, credential_id: CredentialId, org: Org = None, as_json: AsJson = False
) -> None:
    """Take a credential out of use. Runs cannot take it any more; its versions are kept."""
    client, org = session(org, as_json=as_json)
    client.call("DELETE", "admin", "orgs", org, "credentials", provider, credential_id)
    if not as_json:
        show.lines(f"{provider} credential {credential_id} of {org} is out of use")


@app.command()
def rewrap(org: Org = None, as_json: AsJson = False) -> None:
    """Wrap the organization's data keys with the newest key, so that older ones may be destroyed."""
    client, org = session(org, as_json=as_json)
    answer = client.call("POST", "admin", "orgs", org, "rewrap")
    if as_json:
        show.verbatim(answer)
        return
    count = answer.body["rewrapped"]
    show.lines(f"{org}: {count} data key{'' if count == 1 else 's'} wrapped with the newest key")


def _secret(name: str) -> dict[str, Any]:
    """The secret fields. What is wrong with them is told without repeating any of them."""
    what = "stdin" if name == "-" else name
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise Stop(Code.BAD_INPUT, f"--secret {what}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise Stop(Code.BAD_INPUT, f"--secret {what}: is not UTF-8") from None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise Stop(
            Code.BAD_INPUT,
            f"--secret {what}: is not JSON: {error.msg} in line {error.lineno},"
            f" column {error.colno}",
        ) from None
    if not isinstance(found, dict):
        raise Stop(Code.BAD_INPUT, f'--secret {what}: must be a JSON object: {{"name": "value"}}')
    return found
