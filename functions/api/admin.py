"""Onboarding: organizations, their API keys and their credentials."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import msgspec
from flask import Response
from msgspec import Meta

from functions.api.http import Call, PageSize, Time, answer
from functions.api.views import (
    AuditView,
    CredentialsView,
    KeysView,
    MadeKeyView,
    OrganizationsView,
    RewrappedView,
)
from shared.accounts import Change, Limits, Organization, OrgStatus, Scope
from shared.core.credential import accepted
from shared.core.lineage import SLUG
from shared.core.plans import RunCount
from shared.core.record import Json, Record
from shared.core.secret import Secret
from shared.engine import preflight
from shared.errors import Conflict, Fault, Invalid, NotFound, Terminal

NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"
Name = Annotated[str, Meta(min_length=1, max_length=200)]


class NewOrg(Record, frozen=True, kw_only=True):
    """An organization to create. Its plan says what it may use."""

    slug: Annotated[str, Meta(pattern=f"^{SLUG.pattern}$", examples=["acme"])]
    name: Name | None = None
    plan: str = "starter"


class NewStatus(Record, frozen=True, kw_only=True):
    """The subscription status to set."""

    status: OrgStatus


class NewKey(Record, frozen=True, kw_only=True):
    """An API key to create."""

    name: Name
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)] = (Scope.READ, Scope.EXECUTE)
    expires_at: Time | None = None


class OwnLimits(Record, frozen=True, kw_only=True):
    """Limits in place of the plan's. Null is unlimited."""

    daily: RunCount | None = None
    monthly: RunCount | None = None
    concurrent: RunCount


class NewPlan(Record, frozen=True, kw_only=True):
    """The plan to set, and the limits."""

    plan: Annotated[str, Meta(description="Left out, it stays as it is.")] | None = None
    limits: (
        Annotated[OwnLimits, Meta(description="Left out, the limits are those of the plan.")] | None
    ) = None


class Rotation(Record, frozen=True, kw_only=True):
    """How to rotate a key."""

    overlap_hours: Annotated[
        int, Meta(ge=0, le=8_760, description="For so long the old key opens too.")
    ] = 24


class AuditQuery(Record, frozen=True, kw_only=True):
    """Which changes."""

    org: Annotated[str, Meta(description="Of this organization only.")] | None = None
    limit: PageSize = 50
    cursor: Annotated[str, Meta(description="`next` of the page before.")] | None = None


class NewCredential(Record, frozen=True, kw_only=True):
    """A credential to store: what is secret of it, and what may be shown."""

    type: Annotated[
        str | None,
        Meta(
            description="One of the provider's types of credentials. Left out, the fields say which."
        ),
    ] = None
    secret: Annotated[
        dict[str, Json],
        Meta(description="Its fields. Sealed at once; a secret is not shown again."),
    ] = {}
    metadata: Annotated[
        dict[str, Json], Meta(description="Not secret: a bucket, a region, an account id.")
    ] = {}


def list_orgs(call: Call) -> Response:
    """Every organization."""
    return answer(OrganizationsView(organizations=tuple(call.engine.app.accounts.organizations())))


def create_org(call: Call, body: NewOrg) -> Response:
    """Creates an organization; its dataset is made with its first load."""
    app = call.engine.app
    made = app.accounts.create_organization(
        body.slug, body.name or body.slug, body.plan, app.now(), author=call.author
    )
    return answer(made, 201)


def show_org(call: Call, org: str) -> Response:
    """The organization with its plan and limits."""
    return answer(organization_of(call, org))


def set_status(call: Call, org: str, body: NewStatus) -> Response:
    """Sets the subscription status; only ACTIVE and TRIAL may run."""
    accounts = call.engine.app.accounts
    return answer(accounts.set_status(org, body.status, author=call.author))


def set_plan(call: Call, org: str, body: NewPlan) -> Response:
    """Sets the plan, and the limits: the organization's own, or without any those of the plan."""
    plan = body.plan or organization_of(call, org).plan
    limits = None if body.limits is None else Limits(**msgspec.structs.asdict(body.limits))
    return answer(call.engine.app.accounts.set_plan(org, plan, limits, author=call.author))


def list_keys(call: Call, org: str) -> Response:
    """The organization's keys, without their text."""
    organization_of(call, org)
    return answer(KeysView(keys=tuple(call.engine.app.accounts.keys(org))))


def create_key(call: Call, org: str, body: NewKey) -> Response:
    """Creates a key; `api_key` is shown this once."""
    app = call.engine.app
    organization_of(call, org)
    key, text = app.accounts.create_key(
        org, body.name, body.scopes, app.now(), body.expires_at, author=call.author
    )
    return answer(MadeKeyView(key=key, api_key=text), 201)


def rotate_key(call: Call, org: str, key_id: str, body: Rotation) -> Response:
    """Creates a key with the name and scopes of this one, which ends after the overlap.

    `api_key` is shown this once. A key with an expiry is followed by one that lives as long.
    """
    app = call.engine.app
    overlap = timedelta(hours=body.overlap_hours)
    rotated = app.accounts.rotate_key(org, key_id, app.now(), overlap, author=call.author)
    if rotated is None:
        raise _no_key(org, key_id)
    key, text = rotated
    return answer(MadeKeyView(key=key, api_key=text), 201)


def revoke_key(call: Call, org: str, key_id: str) -> Response:
    """The key is refused from now on."""
    app = call.engine.app
    if not app.accounts.revoke_key(org, key_id, app.now(), author=call.author):
        raise _no_key(org, key_id)
    return Response(status=204)


def list_credentials(call: Call, org: str) -> Response:
    """The active credentials for every provider, without their secrets."""
    return _credentials(call, org, None)


def list_credentials_of(call: Call, org: str, provider: str) -> Response:
    """The active credentials for the provider, without their secrets."""
    if not re.fullmatch(NAME, provider):
        raise NotFound(f"{provider!r} is no provider: its name would match {NAME}")
    return _credentials(call, org, _canonical(call, provider))


def put_credential(
    call: Call, org: str, provider: str, credential_id: str, body: NewCredential
) -> Response:
    """Stores a new version of the credential, sealed, and makes it the active one.

    It has to be whole: a field that is missing, unknown or not of its form is refused.
    """
    app = call.engine.app
    organization_of(call, org)
    if not re.fullmatch(NAME, credential_id):
        fault = Fault("credential_id", f"{credential_id!r} is not a name ({NAME})")
        raise Invalid("the credential cannot be stored", [fault])
    of = app.providers().get(provider)
    given = accepted(of, body.type, body.secret, body.metadata)
    secret = Secret(msgspec.json.encode(given.fields))
    target = f"{of.name}/{credential_id}"
    with call.elsewhere("credential.store", org, target):
        info = app.vault.put(org, of.name, credential_id, secret, given.metadata)
    before: dict[str, Json] | None = {"version": info.version - 1} if info.version > 1 else None
    after: dict[str, Json] = {"version": info.version}
    call.note(Change(org, "credential.stored", target, before, after))
    return answer(info, 201 if info.version == 1 else 200)


def check_credential(call: Call, org: str, provider: str, credential_id: str) -> Response:
    """Asks the provider, with one cheap call, whether the credential is good for anything.

    What the provider says is the answer, also where it refuses, or cannot be reached.
    """
    organization_of(call, org)
    return answer(preflight.check_credential(call.engine.app, org, provider, credential_id))


def deactivate_credential(call: Call, org: str, provider: str, credential_id: str) -> Response:
    """Runs cannot use it any more; its versions are kept."""
    provider = _canonical(call, provider)
    vault, target = call.engine.app.vault, f"{provider}/{credential_id}"
    missing = NotFound(
        f"organization {org!r} has no active {provider} credential {credential_id!r}",
        code="credential_not_found",
    )
    if vault.info(org, provider, credential_id) is None:
        raise missing
    with call.elsewhere("credential.deactivate", org, target):
        if not vault.deactivate(org, provider, credential_id):
            raise missing
    call.note(Change(org, "credential.deactivated", target, {"active": True}, {"active": False}))
    return Response(status=204)


def rewrap_keys(call: Call, org: str) -> Response:
    """Wraps the organization's data keys with the newest key of the key ring."""
    organization_of(call, org)
    with call.elsewhere("data_keys.rewrap", org, org):
        try:
            count = call.engine.app.vault.rewrap(org)
        except Terminal as error:
            raise Conflict(str(error), code=error.code) from error
    call.note(Change(org, "data_keys.rewrapped", org, None, {"data_keys": count}))
    return answer(RewrappedView(rewrapped=count))


def audit(call: Call, query: AuditQuery) -> Response:
    """Who changed what, and when, the newest first: of one organization, or of all."""
    page = call.engine.app.accounts.audit(query.org, query.limit, query.cursor)
    return answer(AuditView(entries=tuple(page.entries), next=page.cursor))


def _canonical(call: Call, provider: str) -> str:
    """The name that is stored; of a provider that is no more in the registry its own."""
    found = call.engine.app.providers().find(provider)
    return provider if found is None else found.name


def _credentials(call: Call, org: str, provider: str | None) -> Response:
    organization_of(call, org)
    return answer(CredentialsView(credentials=tuple(call.engine.app.vault.find(org, provider))))


def _no_key(org: str, key_id: str) -> NotFound:
    return NotFound(f"organization {org!r} has no key {key_id!r}", code="key_not_found")


def organization_of(call: Call, org: str) -> Organization:
    """Raises NotFound."""
    found = call.engine.app.accounts.organization(org)
    if found is None:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")
    return found
