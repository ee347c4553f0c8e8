"""Runs: start, look, cancel, retry."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from flask import Response
from msgspec import Meta

from functions.api.http import Call, answer, page_size
from shared.core.record import Json, Record
from shared.core.resume import RetryMode
from shared.core.run import Outcome, RunStatus, Trigger
from shared.engine import query
from shared.engine.retry import Retry, retry
from shared.engine.submit import Submission, Submitted, preview, submit
from shared.errors import Fault, Invalid, NotFound
from shared.state import HistoryFilter

_RUN_FIELDS = ("start_date", "end_date", "credential_id", "dry_run")
_MAX_KEY = 255


class RunRequest(Record, frozen=True, kw_only=True):
    """The body of a start; what stands in the query counts as if it stood here."""

    start_date: str | None = None
    end_date: str | None = None
    credential_id: str | None = None
    parameters: dict[str, Json] = {}
    dry_run: bool = False


class RetryRequest(Record, frozen=True, kw_only=True):
    """The body of a retry."""

    mode: Annotated[
        RetryMode, Meta(description="resume goes on where the run stopped; rerun starts anew.")
    ] = RetryMode.RESUME


def health(call: Call) -> Response:
    """The process answers."""
    return answer({"status": "ok", "version": call.engine.app.code_version})


def ready(call: Call) -> Response:
    """The stores answer too, and the catalog is in order."""
    app = call.engine.app
    app.accounts.organization("ready")
    app.runs.run("ready")
    return answer({"status": "ready", "pipelines": len(app.catalog().addresses())})


def run_pipeline(call: Call, org: str, provider: str, domain: str, pipeline: str) -> Response:
    """202 with the run; a replay carries `Idempotency-Replayed`. A dry run changes nothing."""
    asked = _asked(call)
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


def retry_run(call: Call, org: str, run_id: str) -> Response:
    """202 with the run that retries an ended one, as for a start."""
    asked = Retry(org, run_id, call.body(RetryRequest).mode, _key(call), _trace(call))
    return _accepted(retry(call.engine.app, asked))


def status(call: Call, org: str, run_id: str) -> Response:
    """The run with its steps."""
    return answer(query.status(call.engine.app, org, run_id))


def history(call: Call, org: str) -> Response:
    """Pages of runs, newest first."""
    given = call.query(
        (
            "pipeline_id",
            "status",
            "outcome",
            "trigger",
            "created_from",
            "created_before",
            "limit",
            "cursor",
        )
    )
    faults: list[Fault] = []
    limit = page_size(given, faults)
    for name, kind in (("status", RunStatus), ("outcome", Outcome), ("trigger", Trigger)):
        values = [member.value for member in kind]
        if name in given and given[name] not in values:
            faults.append(Fault(name, f"{given[name]!r} is none of {', '.join(values)}"))
    where = HistoryFilter(
        pipeline_id=given.get("pipeline_id"),
        created_from=_time("created_from", given, faults),
        created_before=_time("created_before", given, faults),
        outcome=given.get("outcome"),
        trigger=given.get("trigger"),
    )
    if faults:
        raise Invalid("the query is not valid", faults)
    if "status" in given:
        where = where._replace(status=RunStatus(given["status"]))
    _known_org(call, org)
    return answer(query.history(call.engine.app, org, where, limit, given.get("cursor")))


def logs(call: Call, org: str, run_id: str) -> Response:
    """The lines that the run's steps wrote."""
    given = call.query(("step_id",))
    return answer({"lines": query.logs(call.engine.app, org, run_id, given.get("step_id"))})


def steps(call: Call, org: str, run_id: str) -> Response:
    """Every attempt."""
    return answer({"attempts": query.attempts(call.engine.app, org, run_id)})


def transitions(call: Call, org: str, run_id: str) -> Response:
    """Every move."""
    return answer({"transitions": query.transitions(call.engine.app, org, run_id)})


def evidence(call: Call, org: str, run_id: str) -> Response:
    """What the steps proved."""
    return answer({"evidence": query.evidence(call.engine.app, org, run_id)})


def cancel(call: Call, org: str, run_id: str) -> Response:
    """Asks for the end of the run. A run that has ended stays as it is."""
    query.find_run(call.engine.app, org, run_id)
    after = call.engine.coordinator.cancel(run_id)
    if after is None:
        raise NotFound(f"there is no run {run_id!r} of organization {org!r}", code="run_not_found")
    return answer(query.run_view(after))


def quota(call: Call, org: str) -> Response:
    """What the organization has used of its limits, and when they start again."""
    usage = call.engine.app.accounts.usage(org, call.engine.app.now())
    if usage is None:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")
    return answer(usage._asdict())


def catalog(call: Call, org: str) -> Response:
    """The pipelines that can be run."""
    _known_org(call, org)
    found = call.engine.app.catalog()
    rows = [(address, found.get(address)) for address in found.addresses()]
    return answer(
        {
            "pipelines": [
                {
                    "address": address,
                    "pipeline_id": pipeline.pipeline_id,
                    "name": pipeline.name,
                    "description": pipeline.description,
                    "provider": pipeline.provider,
                    "domain": pipeline.domain,
                    "steps": [step.step_id for step in pipeline.steps],
                }
                for address, pipeline in rows
            ]
        }
    )


def _asked(call: Call) -> RunRequest:
    given = call.query(_RUN_FIELDS)
    asked = call.body(RunRequest)
    faults = []
    merged: dict[str, object] = {}
    for name, text in given.items():
        if getattr(asked, name) not in (None, False):
            faults.append(Fault(name, "is given in the query and in the body; give it once"))
        if name == "dry_run" and text not in ("true", "false"):
            faults.append(Fault(name, f"{text!r} is neither true nor false"))
        merged[name] = text == "true" if name == "dry_run" else text
    if faults:
        raise Invalid("the request is not valid", faults)
    body = {name: getattr(asked, name) for name in asked.__struct_fields__}
    return RunRequest(**{**body, **merged})


def _key(call: Call) -> str | None:
    key = call.request.headers.get("Idempotency-Key")
    if key is not None and not (key.isascii() and key.isprintable() and 0 < len(key) <= _MAX_KEY):
        raise Invalid(
            "the Idempotency-Key is not usable",
            [Fault("Idempotency-Key", f"must be 1 to {_MAX_KEY} printable ASCII characters")],
        )
    return key


def _trace(call: Call) -> str:
    return call.request.headers.get("traceparent", "")[:55]


def _accepted(done: Submitted) -> Response:
    org, run_id = done.run.org, done.run.run_id
    links = {
        "status": f"/api/v1/pipelines/status/{org}/{run_id}",
        "logs": f"/api/v1/pipelines/logs/{org}/{run_id}",
        "evidence": f"/api/v1/pipelines/evidence/{org}/{run_id}",
        "cancel": f"/api/v1/pipelines/cancel/{org}/{run_id}",
        "retry": f"/api/v1/pipelines/retry/{org}/{run_id}",
    }
    headers = {"Location": links["status"]}
    if done.replayed:
        headers["Idempotency-Replayed"] = "true"
    return answer({"run_id": run_id, "status": "accepted", "links": links}, 202, headers)


def _known_org(call: Call, org: str) -> None:
    if call.engine.app.accounts.organization(org) is None:
        raise NotFound(f"there is no organization {org!r}", code="org_not_found")


def _time(name: str, given: dict[str, str], faults: list[Fault]) -> datetime | None:
    text = given.get(name)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # the first day of all, east of Greenwich
        faults.append(
            Fault(name, f"{text!r} is not an ISO 8601 time, such as 2026-01-31T00:00:00Z")
        )
        return None
