"""`generic.noop`: does nothing, for as long as it is told to. For tests, drills and measurements."""

from __future__ import annotations

import time
from typing import Annotated

from msgspec import Meta

from shared.core.lineage import Evidence
from shared.core.record import Record
from shared.core.run import Summary
from shared.step import StepContext, StepResult, processor

_NAP_SECONDS = 0.05  # between two looks at whether the attempt is still ours


class NoopConfig(Record, frozen=True, kw_only=True):
    """How long to do nothing, and what to say of it."""

    sleep_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="Time that the step takes.", examples=[0.5])
    ] = 0
    rows: Annotated[
        int, Meta(ge=0, description="Rows that the step says it loaded; there are none.")
    ] = 0


@processor("generic.noop", needs_credential=False)
def noop(step: StepContext, config: NoopConfig) -> StepResult:
    """Does nothing, for as long as it is told to."""
    step.check()
    left = config.sleep_seconds
    while left > 0:
        time.sleep(min(left, _NAP_SECONDS))
        left -= _NAP_SECONDS
        step.check()
    return StepResult(
        summary=Summary(extracted=config.rows, loaded=config.rows), evidence=Evidence()
    )
