"""Onboarding: organizations, their API keys and their credentials."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec
from flask import Response
from msgspec import Meta

from functions.api.http import Call, answer
from shared.accounts import Organization, OrgStatus, Scope
from shared.core.record import Json, Record
from shared.core.secret import Secret
from shared.errors import Conflict, Fault, Invalid, NotFound, Terminal

_NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class NewOrg(Record, frozen=True, kw_only=True):
    """An organization to create. Its plan says what it may use."""

    slug: str
    name: Name | None = None
    plan: str = "starter"


class NewStatus(Record, frozen=True, kw_only=True):
    """The subscription status to set."""

    status: OrgStatus


class NewKey(Record, frozen=True, kw_only=True):
    """An API key to create."""

    name: Name
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)] = (Scope.READ, Scope.EXECUTE)
    expires_at: datetime | None = None


class NewCredential(Record, frozen=True, kw_only=True):
    """A credential to store: what is secret of it, and what may be shown."""

    secret: Annotated[dict[str, Json], Meta(description="Sealed at once, never shown again.")] = {}
    metadata: Annotated[
        dict[str, Json], Meta(description="Not secret: a bucket, a region, an account id.")
    ] = {}


def list_orgs(call: Call) -> Response:
    """Every organization."""
    return answer({"organizations": call.engine.app.accounts.organizations()})


def create_org(call: Call) -> Response:
    """201 with the organization; its dataset is made with its first load."""
    asked = call.body(NewOrg)
    app = call.engine.app
    made = app.accounts.create_organization(
        asked.slug, asked.name or asked.slug, asked.plan, app.now()
    )
    return answer(made, 201)


def show_org(call: Call, org: str) -> Response:
    """The organization with its plan and limits."""
    return answer(_organization(call, org))


def set_status(call: Call, org: str) -> Response:
    """Sets the subscription status; only ACTIVE and TRIAL may run."""
    return answer(call.engine.app.accounts.set_status(org, call.body(NewStatus).status))


def list_keys(call: Call, org: str) -> Response:
    """The organization's keys, without their text."""
    _organization(call, org)
    return answer({"keys": call.engine.app.accounts.keys(org)})


def create_key(call: Call, org: str) -> Response:
    """201 with the key; `api_key` is shown this once."""
    asked = call.body(NewKey)
    app = call.engine.app
    _organization(call, org)
    if asked.expires_at is not None and asked.expires_at.tzinfo is None:
        raise Invalid("the body is not valid", [Fault("expires_at", "needs a time zone")])
    key, text = app.accounts.create_key(org, asked.name, asked.scopes, app.now(), asked.expires_at)
    return answer({"key": key, "api_key": text}, 201)


def revoke_key(call: Call, org: str, key_id: str) -> Response:
    """The key is refused from now on."""
    app = call.engine.app
    if not app.accounts.revoke_key(org, key_id, app.now()):
        raise NotFound(f"organization {org!r} has no key {key_id!r}", code="key_not_found")
    return Response(status=204)


def list_credentials(call: Call, org: str, provider: str) -> Response:
    """The active credentials for the provider, without their secrets."""
    _organization(call, org)
    return answer({"credentials": call.engine.app.vault.find(org, provider)})


def put_credential(call: Call, org: str, provider: str, credential_id: str) -> Response:
    """Stores a new version of the credential, sealed, and makes it the active one."""
    asked = call.body(NewCredential)
    _organization(call, org)
    faults = [
        Fault(name, f"{value!r} is not a name ({_NAME})")
        for name, value in (("provider", provider), ("credential_id", credential_id))
        if not re.fullmatch(_NAME, value)
    ]
    if faults:
        raise Invalid("the credential cannot be stored", faults)
    secret = Secret(msgspec.json.encode(asked.secret))
    info = call.engine.app.vault.put(org, provider, credential_id, secret, asked.metadata)
    return answer(info, 201 if info.version == 1 else 200)


def deactivate_credential(call: Call, org: str, provider: str, credential_id: str) -> Response:
    """Runs cannot use it any more; its versions are kept."""
    if not call.engine.app.vault.deactivate(org, provider, credential_id):
        raise NotFound(
            f"organization {org!r} has no active {provider} credential {credential_id!r}",
            code="credential_not_found",
        )
    return Response(status=204)


def rewrap_keys(call: Call, org: str) -> Response:
    """Wraps the organization's data keys with the newest key of the key ring; how many."""
    _organization(call, org)
    try:
        return answer({"rewrapped": call.engine.app.vault.rewrap(org)})
    except Terminal as error:
        raise Conflict(str(error), code=error.code) from error


def _organization(call: Call, org: str) -> Organization:
    found = call.engine.app.accounts.organization(org)
    if found is None:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")
    return found
