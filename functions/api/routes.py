"""Every route of the API, with the scope that it needs. None: open to everybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flask import Response
from werkzeug.routing import Map, Rule

from functions.api import admin, dead_letters, runs
from shared.accounts import Scope

PREFIX = "/api/v1"


class Route(NamedTuple):
    """`run` takes the call and the path's values by name. `platform`: no key of an organization may."""

    method: str
    path: str
    scope: Scope | None
    run: Callable[..., Response]
    platform: bool = False


_ALL = (
    Route("GET", "/health", None, runs.health),
    Route("GET", "/ready", None, runs.ready),
    Route(
        "POST",
        "/pipelines/run/<org>/<provider>/<domain>/<pipeline>",
        Scope.EXECUTE,
        runs.run_pipeline,
    ),
    Route("GET", "/pipelines/status/<org>/<run_id>", Scope.READ, runs.status),
    Route("GET", "/pipelines/history/<org>", Scope.READ, runs.history),
    Route("GET", "/pipelines/logs/<org>/<run_id>", Scope.READ, runs.logs),
    Route("GET", "/pipelines/logs/<org>/<run_id>/steps", Scope.READ, runs.steps),
    Route("GET", "/pipelines/logs/<org>/<run_id>/transitions", Scope.READ, runs.transitions),
    Route("GET", "/pipelines/evidence/<org>/<run_id>", Scope.READ, runs.evidence),
    Route("POST", "/pipelines/cancel/<org>/<run_id>", Scope.EXECUTE, runs.cancel),
    Route("POST", "/pipelines/retry/<org>/<run_id>", Scope.EXECUTE, runs.retry_run),
    Route("GET", "/pipelines/quota/<org>", Scope.READ, runs.quota),
    Route("GET", "/pipelines/catalog/<org>", Scope.READ, runs.catalog),
    Route("GET", "/admin/orgs", Scope.ADMIN, admin.list_orgs),
    Route("POST", "/admin/orgs", Scope.ADMIN, admin.create_org),
    Route("GET", "/admin/orgs/<org>", Scope.READ, admin.show_org),
    Route("POST", "/admin/orgs/<org>/status", Scope.ADMIN, admin.set_status, platform=True),
    Route("GET", "/admin/orgs/<org>/keys", Scope.ADMIN, admin.list_keys),
    Route("POST", "/admin/orgs/<org>/keys", Scope.ADMIN, admin.create_key),
    Route("DELETE", "/admin/orgs/<org>/keys/<key_id>", Scope.ADMIN, admin.revoke_key),
    Route("GET", "/admin/orgs/<org>/credentials/<provider>", Scope.ADMIN, admin.list_credentials),
    Route(
        "PUT",
        "/admin/orgs/<org>/credentials/<provider>/<credential_id>",
        Scope.ADMIN,
        admin.put_credential,
    ),
    Route(
        "DELETE",
        "/admin/orgs/<org>/credentials/<provider>/<credential_id>",
        Scope.ADMIN,
        admin.deactivate_credential,
    ),
    Route("POST", "/admin/orgs/<org>/rewrap", Scope.ADMIN, admin.rewrap_keys, platform=True),
    Route("GET", "/admin/dead-letters", Scope.ADMIN, dead_letters.list_letters),
    Route("GET", "/admin/dead-letters/<letter_id>", Scope.ADMIN, dead_letters.show_letter),
    Route(
        "POST",
        "/admin/dead-letters/<letter_id>/redrive",
        Scope.ADMIN,
        dead_letters.redrive_letter,
    ),
    Route("DELETE", "/admin/dead-letters/<letter_id>", Scope.ADMIN, dead_letters.drop_letter),
)

ROUTES = {f"{route.method} {route.path}": route for route in _ALL}
URLS = Map(
    [
        Rule(PREFIX + route.path, endpoint=name, methods=[route.method])
        for name, route in ROUTES.items()
    ],
    strict_slashes=False,
    redirect_defaults=False,
    merge_slashes=False,
)
