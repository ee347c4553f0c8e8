"""Every route of the API: what it takes, what it answers, and the scope that it needs."""

from __future__ import annotations

from functools import cache

from flask import Response
from msgspec import json
from werkzeug.routing import Map, Rule

from functions.api import (
    admin,
    coverage,
    dead_letters,
    focus,
    logs,
    runs,
    schedules,
    subscriptions,
    views,
)
from functions.api.http import Call
from functions.api.route import Route
from shared.accounts import Organization, Scope
from shared.core.subscription import Entries, Terms
from shared.engine.coverage import CoverageView
from shared.engine.focus import FocusCheckView
from shared.engine.logs import LineView, LogView
from shared.engine.preflight import CheckView
from shared.engine.query import HistoryView, RunView
from shared.engine.schedules import ScheduleView
from shared.engine.submit import Preview
from shared.vault import CredentialInfo

PREFIX = "/api/v1"


def openapi(_call: Call) -> Response:
    """This API, as OpenAPI 3.1 describes it."""
    return Response(openapi_text(), mimetype="application/json")


@cache
def openapi_text() -> bytes:
    """What describes these routes, made once."""
    from functions.api.openapi import document  # noqa: PLC0415  # most processes are never asked

    return json.encode(document(_ALL, PREFIX)) + b"\n"


READ, EXECUTE, ADMIN = Scope.READ, Scope.EXECUTE, Scope.ADMIN
_OF_RUN = "<org>/<run_id>"
_OF_SUBSCRIPTION = "<org>/<subscription_id>"
_OF_SCHEDULE = "/pipelines/schedules/<org>/<schedule_id>"

_ALL = (
    Route("GET", "/health", None, runs.health, {200: views.HealthView}),
    Route("GET", "/ready", None, runs.ready, {200: views.ReadyView}),
    Route("GET", "/openapi.json", None, openapi, {200: dict}),
    Route(
        "POST",
        "/pipelines/run/<org>/<provider>/<domain>/<pipeline>",
        EXECUTE,
        runs.run_pipeline,
        {202: views.AcceptedView, 200: Preview},
        query=runs.RunQuery,
        body=runs.RunRequest,
        keyed=True,
        conflicts=(422,),
    ),
    Route("GET", f"/pipelines/status/{_OF_RUN}", READ, runs.status, {200: views.LinkedStatusView}),
    Route(
        "GET",
        "/pipelines/history/<org>",
        READ,
        runs.history,
        {200: HistoryView},
        query=runs.HistoryQuery,
    ),
    Route(
        "GET",
        f"/pipelines/logs/{_OF_RUN}",
        READ,
        logs.logs,
        {200: LogView},
        query=logs.LogsQuery,
    ),
    Route(
        "GET",
        f"/pipelines/logs/{_OF_RUN}/download",
        READ,
        logs.download_logs,
        {200: LineView},
        query=logs.DownloadQuery,
        files=("text/csv", "application/x-ndjson"),
    ),
    Route("GET", f"/pipelines/logs/{_OF_RUN}/steps", READ, runs.steps, {200: views.AttemptsView}),
    Route(
        "GET",
        f"/pipelines/logs/{_OF_RUN}/transitions",
        READ,
        runs.transitions,
        {200: views.TransitionsView},
    ),
    Route("GET", f"/pipelines/evidence/{_OF_RUN}", READ, runs.evidence, {200: views.EvidencesView}),
    Route("POST", f"/pipelines/cancel/{_OF_RUN}", EXECUTE, runs.cancel, {200: RunView}),
    Route(
        "POST",
        f"/pipelines/retry/{_OF_RUN}",
        EXECUTE,
        runs.retry_run,
        {202: views.AcceptedView},
        body=runs.RetryRequest,
        keyed=True,
        conflicts=(409, 422),
    ),
    Route("GET", "/pipelines/quota/<org>", READ, runs.quota, {200: views.QuotaView}),
    Route(
        "GET",
        "/pipelines/schedules/<org>",
        READ,
        schedules.list_schedules,
        {200: views.SchedulesView},
    ),
    Route("GET", _OF_SCHEDULE, READ, schedules.show_schedule, {200: ScheduleView}),
    Route(
        "PUT",
        _OF_SCHEDULE,
        EXECUTE,
        schedules.put_schedule,
        {200: ScheduleView, 201: ScheduleView},
        body=schedules.WantedSchedule,
        conflicts=(409,),
    ),
    Route("DELETE", _OF_SCHEDULE, EXECUTE, schedules.remove_schedule, {204: None}),
    Route(
        "GET",
        f"{_OF_SCHEDULE}/skipped",
        READ,
        schedules.list_skipped,
        {200: views.SkippedPageView},
        query=schedules.SkippedQuery,
    ),
    Route("GET", "/pipelines/catalog/<org>", READ, runs.catalog, {200: views.CatalogView}),
    Route(
        "GET",
        "/pipelines/catalog/<org>/<provider>/<domain>/<pipeline>",
        READ,
        runs.show_pipeline,
        {200: views.OnePipelineView},
    ),
    Route(
        "GET",
        "/focus/check/<org>",
        READ,
        focus.check,
        {200: FocusCheckView},
        query=focus.FocusCheckQuery,
    ),
    Route(
        "GET",
        "/pipelines/coverage/<org>",
        READ,
        coverage.coverage,
        {200: CoverageView},
        query=coverage.CoverageQuery,
    ),
    Route("GET", "/admin/orgs", ADMIN, admin.list_orgs, {200: views.OrganizationsView}),
    Route(
        "POST",
        "/admin/orgs",
        ADMIN,
        admin.create_org,
        {201: Organization},
        body=admin.NewOrg,
        conflicts=(409,),
    ),
    Route("GET", "/admin/orgs/<org>", READ, admin.show_org, {200: Organization}),
    Route(
        "POST",
        "/admin/orgs/<org>/status",
        ADMIN,
        admin.set_status,
        {200: Organization},
        body=admin.NewStatus,
        platform=True,
    ),
    Route(
        "POST",
        "/admin/orgs/<org>/plan",
        ADMIN,
        admin.set_plan,
        {200: Organization},
        body=admin.NewPlan,
        platform=True,
    ),
    Route("GET", "/admin/orgs/<org>/keys", ADMIN, admin.list_keys, {200: views.KeysView}),
    Route(
        "POST",
        "/admin/orgs/<org>/keys",
        ADMIN,
        admin.create_key,
        {201: views.MadeKeyView},
        body=admin.NewKey,
    ),
    Route(
        "POST",
        "/admin/orgs/<org>/keys/<key_id>/rotate",
        ADMIN,
        admin.rotate_key,
        {201: views.MadeKeyView},
        body=admin.Rotation,
    ),
    Route("DELETE", "/admin/orgs/<org>/keys/<key_id>", ADMIN, admin.revoke_key, {204: None}),
    Route(
        "GET",
        "/admin/orgs/<org>/credentials",
        ADMIN,
        admin.list_credentials,
        {200: views.CredentialsView},
    ),
    Route(
        "GET",
        "/admin/orgs/<org>/credentials/<provider>",
        ADMIN,
        admin.list_credentials_of,
        {200: views.CredentialsView},
    ),
    Route(
        "PUT",
        "/admin/orgs/<org>/credentials/<provider>/<credential_id>",
        ADMIN,
        admin.put_credential,
        {200: CredentialInfo, 201: CredentialInfo},
        body=admin.NewCredential,
    ),
    Route(
        "DELETE",
        "/admin/orgs/<org>/credentials/<provider>/<credential_id>",
        ADMIN,
        admin.deactivate_credential,
        {204: None},
    ),
    Route(
        "POST",
        "/admin/orgs/<org>/credentials/<provider>/<credential_id>/check",
        ADMIN,
        admin.check_credential,
        {200: CheckView},
    ),
    Route(
        "POST",
        "/admin/orgs/<org>/rewrap",
        ADMIN,
        admin.rewrap_keys,
        {200: views.RewrappedView},
        platform=True,
        conflicts=(409,),
    ),
    Route(
        "GET",
        "/admin/subscriptions/<org>",
        READ,
        subscriptions.list_subscriptions,
        {200: subscriptions.SubscriptionsView},
        query=subscriptions.SubscriptionsQuery,
    ),
    Route(
        "POST",
        "/admin/subscriptions/<org>",
        ADMIN,
        subscriptions.enter_subscriptions,
        {200: subscriptions.EntriesView},
        query=subscriptions.EnterQuery,
        body=Entries,
        conflicts=(409,),
    ),
    Route(
        "GET",
        f"/admin/subscriptions/{_OF_SUBSCRIPTION}",
        READ,
        subscriptions.show_subscription,
        {200: subscriptions.SubscriptionView},
    ),
    Route(
        "PUT",
        f"/admin/subscriptions/{_OF_SUBSCRIPTION}",
        ADMIN,
        subscriptions.put_subscription,
        {200: subscriptions.SubscriptionView, 201: subscriptions.SubscriptionView},
        body=Terms,
        conflicts=(409,),
    ),
    Route(
        "DELETE",
        f"/admin/subscriptions/{_OF_SUBSCRIPTION}",
        ADMIN,
        subscriptions.void_subscription,
        {204: None},
        conflicts=(409,),
    ),
    Route(
        "GET",
        f"/admin/subscriptions/{_OF_SUBSCRIPTION}/history",
        READ,
        subscriptions.subscription_history,
        {200: subscriptions.SubscriptionHistoryView},
        query=subscriptions.RevisionsQuery,
    ),
    Route(
        "POST",
        f"/admin/subscriptions/{_OF_SUBSCRIPTION}/end",
        ADMIN,
        subscriptions.end_subscription,
        {200: subscriptions.SubscriptionView},
        body=subscriptions.End,
        conflicts=(409,),
    ),
    Route(
        "PUT",
        f"/admin/subscriptions/{_OF_SUBSCRIPTION}/refunds/<ref>",
        ADMIN,
        subscriptions.refund_subscription,
        {200: subscriptions.SubscriptionView},
        body=subscriptions.NewRefund,
        conflicts=(409,),
    ),
    Route(
        "GET", "/admin/audit", ADMIN, admin.audit, {200: views.AuditView}, query=admin.AuditQuery
    ),
    Route(
        "GET",
        "/admin/dead-letters",
        ADMIN,
        dead_letters.list_letters,
        {200: dead_letters.LettersView},
        query=dead_letters.LettersQuery,
    ),
    Route(
        "GET",
        "/admin/dead-letters/<letter_id>",
        ADMIN,
        dead_letters.show_letter,
        {200: dead_letters.LetterView},
    ),
    Route(
        "POST",
        "/admin/dead-letters/<letter_id>/redrive",
        ADMIN,
        dead_letters.redrive_letter,
        {204: None},
        conflicts=(409,),
    ),
    Route(
        "DELETE",
        "/admin/dead-letters/<letter_id>",
        ADMIN,
        dead_letters.drop_letter,
        {204: None},
    ),
)

ROUTES = {route.name: route for route in _ALL}


@cache
def urls() -> Map:
    """The paths of all routes, made once: a tenth of what it costs to import the API."""
    return Map(
        [
            Rule(PREFIX + route.path, endpoint=name, methods=[route.method])
            for name, route in ROUTES.items()
        ],
        strict_slashes=False,
        redirect_defaults=False,
        merge_slashes=False,
    )
