"""`pipelines keys`: the API keys of an organization."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.cli import show
from shared.cli.options import AsJson, Org, session
from shared.cli.show import Column

app = typer.Typer(help="API keys of an organization.", no_args_is_help=True)


@app.command("list")
def list_keys(org: Org = None, as_json: AsJson = False) -> None:
    """Every key, without its text."""
    client, org = session(org, as_json=as_json)
    answer = client.get("admin", "orgs", org, "keys")
    if as_json:
        show.verbatim(answer)
        return
    rows = answer.body["keys"]
    if not rows:
        show.lines(f"{org} has no key yet. Make one: pipelines keys create NAME --org {org}")
        return
    columns = (
        Column("key"),
        Column("name"),
        Column("scopes"),
        Column("created (UTC)"),
        Column("expires (UTC)"),
        Column("last used (UTC)"),
        Column("revoked (UTC)"),
    )
    show.lines(
        show.table(
            columns,
            [
                (
                    row["key_id"],
                    row["name"],
                    show.value(row["scopes"]),
                    *(
                        show.utc(row.get(name))
                        for name in ("created_at", "expires_at", "last_used_at", "revoked_at")
                    ),
                )
                for row in rows
            ],
        )
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for: laptop, scheduler.")],
    org: Org = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, execute or admin; may be repeated (default: read and execute)."),
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="ISO time with its zone: 2027-01-31T00:00:00Z.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. Its text goes to stdout, this once; it is stored as a hash."""
    client, org = session(org, as_json=as_json)
    body: dict[str, object] = {"name": name}
    if scope:
        body["scopes"] = scope
    if expires_at is not None:
        body["expires_at"] = expires_at
    answer = client.post("admin", "orgs", org, "keys", body=body)
    if as_json:
        show.verbatim(answer)
        return
    key = answer.body["key"]
    show.err().print(
        f"key {key['key_id']} of {org} ({show.value(key['scopes'])}); it is not shown again:"
    )
    show.lines(answer.body["api_key"])


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `list` shows it.")],
    org: Org = None,
    overlap_hours: Annotated[
        int, typer.Option(help="For so long the old key opens too.", min=0, max=8760)
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Make a key that follows this one. Its text goes to stdout, this once."""
    client, org = session(org, as_json=as_json)
    body = {"overlap_hours": overlap_hours}
    answer = client.post("admin", "orgs", org, "keys", key_id, "rotate", body=body)
    if as_json:
        show.verbatim(answer)
        return
    key = answer.body["key"]
    show.err().print(
        f"key {key['key_id']} of {org} follows {key_id}, which ends in {overlap_hours} h at the"
        " latest; it is not shown again:"
    )
    show.lines(answer.body["api_key"])


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `list` shows it.")],
    org: Org = None,
    as_json: AsJson = False,
) -> None:
    """Refuse the key from now on."""
    client, org = session(org, as_json=as_json)
    client.call("DELETE", "admin", "orgs", org, "keys", key_id)
    if not as_json:
        show.lines(f"key {key_id} of {org} is revoked")
