"""The resolved pipeline of one run: what is executed, stored with the run and never changed."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta

from shared.core.record import Document, Json, Record

# A step lives in a push request, which Pub/Sub gives 600 seconds. What may take longer is a job.
PUSH_SECONDS = 540.0


class OnFailure(StrEnum):
    """What a failed step means for its run."""

    STOP = "stop"
    CONTINUE = "continue"


class RetryPolicy(Record, frozen=True, kw_only=True):
    """When a step that failed transiently runs again."""

    max_attempts: Annotated[
        int, Meta(ge=1, le=20, description="All attempts together; 1 means no retry.")
    ] = 3
    backoff_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="The least wait before the next attempt.")
    ] = 30
    exponential: Annotated[
        bool, Meta(description="Doubles the wait with every further attempt.")
    ] = False
    max_backoff_seconds: Annotated[
        float, Meta(ge=0, le=86_400, description="The wait is never longer than this.")
    ] = 900


class StepPlan(Document, frozen=True, kw_only=True):
    """One step with everything resolved. `config` is valid for the processor of `ps_type`."""

    step_id: str
    ps_type: str
    config: dict[str, Json] = {}
    depends_on: tuple[str, ...] = ()
    timeout_seconds: float = 540
    retry: RetryPolicy = RetryPolicy()
    on_failure: OnFailure = OnFailure.STOP
    enabled: bool = True

    @property
    def timeout(self) -> timedelta:
        return timedelta(seconds=self.timeout_seconds)

    @property
    def long(self) -> bool:
        """It may take longer than a push request lives."""
        return self.timeout_seconds > PUSH_SECONDS


class Plan(Document, frozen=True, kw_only=True, dict=True):
    """The steps in an order in which every step follows those it depends on."""

    address: str
    pipeline_id: str
    provider: str
    domain: str
    version: str
    config_hash: str
    steps: tuple[StepPlan, ...]
    timeout_minutes: float = 60

    @property
    def timeout(self) -> timedelta:
        return timedelta(minutes=self.timeout_minutes)

    @cached_property
    def by_id(self) -> dict[str, StepPlan]:
        return {step.step_id: step for step in self.steps}


def jitter(run_id: str, step_id: str, attempt: int) -> float:
    """A number in [0, 1) that is the same for the same attempt: spread without a random source."""
    digest = blake2b(f"{run_id}/{step_id}.{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def backoff(policy: RetryPolicy, failures: int, spread: float) -> timedelta:
    """The wait after `failures` transient failures; `spread` in [0, 1) adds up to a quarter."""
    seconds = policy.backoff_seconds
    if policy.exponential:
        seconds *= 2.0 ** min(failures - 1, 30)
    seconds = min(seconds, policy.max_backoff_seconds)
    return timedelta(seconds=seconds * (1 + spread / 4))


# Of a run that never had one: it was abandoned, or could not be made.
NO_PLAN = Plan(
    address="", pipeline_id="", provider="", domain="", version="", config_hash="", steps=()
)
