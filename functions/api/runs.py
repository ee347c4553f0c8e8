"""Runs: start, look, cancel, retry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from flask import Response
from msgspec import Meta

from functions.api.http import Call, PageSize, Time, answer, known_org
from functions.api.views import (
    AcceptedView,
    AttemptsView,
    CatalogView,
    EvidencesView,
    HealthView,
    LinkedStatusView,
    Links,
    OnePipelineView,
    PipelineView,
    QuotaView,
    ReadyView,
    ReservationView,
    TransitionsView,
)
from shared.core.message import traced
from shared.core.record import Json, Record
from shared.core.resume import RetryMode
from shared.core.run import Outcome, RunStatus, Trigger
from shared.core.schema import DIALECT
from shared.engine import query as views
from shared.engine.describe import describe, parameter_schemas
from shared.engine.retry import Retry, retry
from shared.engine.submit import Submission, Submitted, preview, submit
from shared.errors import Fault, Invalid, NotFound
from shared.state import HistoryFilter

_MAX_KEY = 255


_Day = Annotated[
    str,
    Meta(
        description="An inclusive UTC day; yesterday where none is given.",
        examples=["2026-01-31"],
        extra_json_schema={"format": "date"},
    ),
]
_CredentialId = Annotated[
    str,
    Meta(description="Needed only where the organization has several of the pipeline's provider."),
]
_DryRun = Annotated[bool, Meta(description="True: say what would run, and change nothing.")]


class RunQuery(Record, frozen=True, kw_only=True):
    """What of a start may stand in the query, where it counts as if it stood in the body."""

    start_date: _Day | None = None
    end_date: _Day | None = None
    credential_id: _CredentialId | None = None
    dry_run: _DryRun = False


class RunRequest(RunQuery, frozen=True, kw_only=True):
    """What to run a pipeline with; all of it may be left out."""

    parameters: Annotated[
        dict[str, Json], Meta(description="Values for the pipeline's parameters, by name.")
    ] = {}


class RetryRequest(Record, frozen=True, kw_only=True):
    """How to retry."""

    mode: Annotated[
        RetryMode, Meta(description="resume goes on where the run stopped; rerun starts anew.")
    ] = RetryMode.RESUME


class HistoryQuery(Record, frozen=True, kw_only=True):
    """Which runs. A day stands for its midnight UTC."""

    pipeline_id: str | None = None
    status: RunStatus | None = None
    outcome: Outcome | None = None
    trigger: Trigger | None = None
    created_from: Time | None = None
    created_before: Time | None = None
    limit: PageSize = 50
    cursor: Annotated[str, Meta(description="`next` of the page before.")] | None = None


def health(call: Call) -> Response:
    """The process answers."""
    return answer(HealthView(version=call.engine.app.code_version))


def ready(call: Call) -> Response:
    """The stores answer too, and the catalog is in order."""
    app = call.engine.app
    app.accounts.organization("ready")
    app.runs.run("ready")
    return answer(ReadyView(pipelines=len(app.catalog().addresses())))


def run_pipeline(
    call: Call,
    org: str,
    provider: str,
    domain: str,
    pipeline: str,
    query: RunQuery,
    body: RunRequest,
) -> Response:
    """Starts a run. A replay carries `Idempotency-Replayed`; a dry run changes nothing."""
    asked = _merged(query, body)
    submission = Submission(
        org=org,
        address=f"{provider}/{domain}/{pipeline}",
        start_date=asked.start_date,
        end_date=asked.end_date,
        credential_id=asked.credential_id,
        parameters=asked.parameters,
        idempotency_key=_key(call),
        trigger=Trigger.API,
        trace=_trace(call),
    )
    if asked.dry_run:
        return answer(preview(call.engine.app, submission))
    return _accepted(submit(call.engine.app, submission))


def retry_run(call: Call, org: str, run_id: str, body: RetryRequest) -> Response:
    """Starts a run that retries an ended one."""
    asked = Retry(org, run_id, body.mode, _key(call), _trace(call))
    return _accepted(retry(call.engine.app, asked))


def status(call: Call, org: str, run_id: str) -> Response:
    """The run with its steps, how far it has come, and what it waits for."""
    found = views.status(call.engine.app, org, run_id)
    return answer(LinkedStatusView(**msgspec.structs.asdict(found), links=_links(org, run_id)))


def history(call: Call, org: str, query: HistoryQuery) -> Response:
    """Pages of runs, newest first."""
    known_org(call, org)
    where = HistoryFilter(
        pipeline_id=query.pipeline_id,
        status=query.status,
        outcome=query.outcome,
        trigger=query.trigger,
        created_from=_utc(query.created_from),
        created_before=_utc(query.created_before),
    )
    return answer(views.history(call.engine.app, org, where, query.limit, query.cursor))


def steps(call: Call, org: str, run_id: str) -> Response:
    """Every attempt."""
    return answer(AttemptsView(attempts=tuple(views.attempts(call.engine.app, org, run_id))))


def transitions(call: Call, org: str, run_id: str) -> Response:
    """Every move."""
    moves = tuple(views.transitions(call.engine.app, org, run_id))
    return answer(TransitionsView(transitions=moves))


def evidence(call: Call, org: str, run_id: str) -> Response:
    """What the steps proved."""
    return answer(EvidencesView(evidence=tuple(views.evidence(call.engine.app, org, run_id))))


def cancel(call: Call, org: str, run_id: str) -> Response:
    """Asks for the end of the run. A run that has ended stays as it is."""
    views.find_run(call.engine.app, org, run_id)
    after = call.engine.coordinator.cancel(run_id)
    if after is None:
        raise NotFound(f"there is no run {run_id!r} of organization {org!r}", code="run_not_found")
    return answer(views.run_view(after))


def quota(call: Call, org: str) -> Response:
    """What the organization has used of its limits, when they start again, and what holds slots."""
    accounts = call.engine.app.accounts
    usage = accounts.usage(org, call.engine.app.now())
    if usage is None:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")
    held = tuple(ReservationView(**one._asdict()) for one in accounts.held(org))
    return answer(QuotaView(**usage._asdict(), reservations=held))


def catalog(call: Call, org: str) -> Response:
    """The pipelines that can be run."""
    known_org(call, org)
    found = call.engine.app.catalog()
    rows = [(address, found.get(address)) for address in found.addresses()]
    return answer(
        CatalogView(
            pipelines=tuple(
                PipelineView(
                    address=address,
                    pipeline_id=pipeline.pipeline_id,
                    name=pipeline.name,
                    description=pipeline.description,
                    provider=pipeline.provider,
                    domain=pipeline.domain,
                    steps=tuple(step.step_id for step in pipeline.steps),
                )
                for address, pipeline in rows
            )
        )
    )


def show_pipeline(call: Call, org: str, provider: str, domain: str, pipeline: str) -> Response:
    """A pipeline with its parameters and the JSON Schema of the body that starts a run of it."""
    known_org(call, org)
    app = call.engine.app
    found = app.catalog().get(f"{provider}/{domain}/{pipeline}")
    detail = msgspec.structs.asdict(describe(found, app.processors))
    schema = _run_schema(parameter_schemas(found, app.processors))
    return answer(OnePipelineView(**detail, run_schema=schema))


def _run_schema(parameters: dict[str, Json]) -> dict[str, Json]:
    """The schema of `RunRequest` with the parameters of one pipeline."""
    name = RunRequest.__name__
    schema = msgspec.json.schema_components([RunRequest])[1][name]
    taken = {"type": "object", "properties": parameters, "additionalProperties": False}
    return {
        "$schema": DIALECT,
        **schema,
        "properties": {**schema["properties"], "parameters": taken},
        "additionalProperties": False,
    }


def _merged(query: RunQuery, body: RunRequest) -> RunRequest:
    """What was asked in either place. Raises Invalid for what was asked in both."""
    unset = RunQuery()
    given = {
        name: getattr(query, name)
        for name in query.__struct_fields__
        if getattr(query, name) != getattr(unset, name)
    }
    faults = [
        Fault(name, "is given in the query and in the body; give it once")
        for name in given
        if getattr(body, name) != getattr(unset, name)
    ]
    if faults:
        raise Invalid("the request is not valid", faults)
    return msgspec.structs.replace(body, **given)


def _key(call: Call) -> str | None:
    key = call.request.headers.get("Idempotency-Key")
    if key is not None and not (key.isascii() and key.isprintable() and 0 < len(key) <= _MAX_KEY):
        raise Invalid(
            "the Idempotency-Key is not usable",
            [Fault("Idempotency-Key", f"must be 1 to {_MAX_KEY} printable ASCII characters")],
        )
    return key


def _trace(call: Call) -> str:
    return traced(call.request.headers.get("traceparent", ""))


def _links(org: str, run_id: str) -> Links:
    return Links(
        status=f"/api/v1/pipelines/status/{org}/{run_id}",
        logs=f"/api/v1/pipelines/logs/{org}/{run_id}",
        evidence=f"/api/v1/pipelines/evidence/{org}/{run_id}",
        cancel=f"/api/v1/pipelines/cancel/{org}/{run_id}",
        retry=f"/api/v1/pipelines/retry/{org}/{run_id}",
    )


def _accepted(done: Submitted) -> Response:
    org, run_id = done.run.org, done.run.run_id
    links = _links(org, run_id)
    headers = {"Location": links.status}
    if done.replayed:
        headers["Idempotency-Replayed"] = "true"
    return answer(AcceptedView(run_id=run_id, links=links), 202, headers)


def _utc(at: datetime | None) -> datetime | None:
    try:
        return None if at is None else at.astimezone(UTC)
    except OverflowError:  # the first day of all east of Greenwich, or the last one west of it
        return None if at is None else at.replace(tzinfo=UTC)
