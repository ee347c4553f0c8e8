"""Going on where a run has ended: what of it is kept, and what has changed under it since."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec
from msgspec.structs import asdict

from shared.core.plan import Plan, StepPlan
from shared.core.record import Json
from shared.core.run import Run, StepState, StepStatus, clip, derived_run_id
from shared.errors import Fault

MAX_RETRIES = 100  # of one run: each can be retried itself
_SHOWN_BYTES = 80


class RetryMode(StrEnum):
    """How to run again what has ended."""

    RESUME = "resume"
    RERUN = "rerun"


def retry_id(run_id: str, number: int) -> str:
    """The id of the retry of a run that has `number` earlier ones: nobody has to search for them."""
    return derived_run_id(run_id, "retry", str(number))


def kept_steps(run: Run, plan: Plan) -> dict[str, StepState]:
    """The steps that a run which resumes `run` begins with; every other one is pending in it.

    A step is kept when it completed and everything it waits for is kept too, or disabled. What
    completed after a failure that continues has not seen what its parent brings when it runs again,
    so it runs again as well.
    """
    kept: dict[str, StepState] = {}
    settled: set[str] = set()
    for step in plan.steps:  # parents come first
        state = run.steps.get(step.step_id)
        if not settled.issuperset(step.depends_on) or state is None:
            continue
        if not step.enabled:
            settled.add(step.step_id)
        elif state.status is StepStatus.COMPLETED:
            settled.add(step.step_id)
            kept[step.step_id] = StepState(
                status=StepStatus.COMPLETED,
                counted=state.counted,
                from_run=state.from_run or run.run_id,
                summary=state.summary,
                started_at=state.started_at,
                finished_at=state.finished_at,
            )
    return kept


def differences(before: Plan, after: Plan) -> list[Fault]:
    """What two plans of one pipeline differ in, field by field; empty when they do the same."""
    faults = list(_changed("", _fields(before), _fields(after)))
    for step_id in before.by_id | after.by_id:
        there, now = before.by_id.get(step_id), after.by_id.get(step_id)
        if there is None or now is None:
            faults.append(Fault(f"steps.{step_id}", "is new" if there is None else "is gone"))
        else:
            faults += _changed(f"steps.{step_id}.", _fields(there), _fields(now))
    return faults


def _fields(plan: Plan | StepPlan) -> dict[str, Json]:
    """The fields of a plan without its steps, or of a step, with each key of its config apart."""
    fields: dict[str, Json] = asdict(plan)
    for apart in ("steps", "config_hash"):
        fields.pop(apart, None)
    config = fields.pop("config", {})
    return fields | {f"config.{key}": value for key, value in config.items()}


def _changed(place: str, before: dict[str, Json], after: dict[str, Json]) -> Iterator[Fault]:
    for name in before | after:
        if name not in before or name not in after or before[name] != after[name]:
            yield Fault(place + name, f"was {_said(name, before)}, is {_said(name, after)}")


def _said(name: str, fields: dict[str, Json]) -> str:
    if name not in fields:
        return "not there"
    return clip(msgspec.json.encode(fields[name]).decode(), _SHOWN_BYTES)
