"""The fields of a pipeline file, as people write them.

The one description of them: the parser's types, `configs/schema.json` and the OpenAPI parts follow.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from shared.core.period import Unit
from shared.core.plan import OnFailure, RetryPolicy
from shared.core.record import Json, Record

MAX_STEPS = 200
NAME_PATTERN = "^[a-z][a-z0-9_-]{0,62}$"
VARIABLE_PATTERN = "^[a-z_][a-z0-9_]*$"
TABLE_PATTERN = "^[a-z][a-z0-9_]{0,127}$"


class Overlap(StrEnum):
    """What a due run does while the one before it still runs."""

    SKIP = "skip"
    ALLOW = "allow"


class Catchup(StrEnum):
    """Which of the runs that were missed are made up for."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


class Ending(StrEnum):
    """How a run can end, for those who want to hear of it."""

    COMPLETED = "completed"
    OK_WITH_WARNINGS = "ok_with_warnings"
    NO_DATA = "no_data"
    FAILED = "failed"
    CANCELLED = "cancelled"


Cron = Annotated[
    str,
    Meta(
        description="When: minute hour day month weekday, or @daily and the like.",
        min_length=1,
        max_length=200,
        examples=["0 6 * * *", "@daily"],
    ),
]
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=63)]


class Schedule(Record, frozen=True, kw_only=True):
    """When a pipeline runs by itself."""

    cron: Cron
    timezone: Annotated[
        str,
        Meta(
            description="IANA zone in which the cron expression is read.",
            min_length=1,
            max_length=64,
            examples=["UTC", "Europe/Berlin"],
        ),
    ] = "UTC"
    enabled: Annotated[
        bool, Meta(description="False keeps the schedule in the file but starts nothing.")
    ] = True
    overlap: Annotated[
        Overlap, Meta(description="What a due run does while the one before it still runs.")
    ] = Overlap.SKIP
    catchup: Annotated[
        Catchup, Meta(description="Which of the runs that were missed are made up for.")
    ] = Catchup.NONE


class Notification(Record, frozen=True, kw_only=True):
    """Who hears of the end of a run. An organization can change this for itself."""

    on: Annotated[
        tuple[Ending, ...],
        Meta(
            description="The endings that are worth a notice.",
            min_length=1,
            examples=[["failed", "no_data"]],
        ),
    ] = (Ending.FAILED,)
    channels: Annotated[
        tuple[Name, ...],
        Meta(
            description="Names of the organization's channels; empty means all of them.",
            examples=[["finops-mail"]],
        ),
    ] = ()


class EventTrigger(Record, frozen=True, kw_only=True):
    """An event of another system that starts this pipeline."""

    event: Annotated[
        str,
        Meta(
            description="Type of the event (the CloudEvents attribute `type`).",
            min_length=1,
            max_length=200,
            examples=["google.cloud.storage.object.v1.finalized"],
        ),
    ]
    match: Annotated[
        dict[str, str | int | float | bool],
        Meta(
            description="Dotted paths into the event, and the values that they must have.",
            examples=[{"data.bucket": "billing-exports"}],
        ),
    ] = {}
    parameters: Annotated[
        dict[str, str],
        Meta(
            description="Parameters of the run, each taken from a dotted path into the event.",
            examples=[{"start_date": "data.day"}],
        ),
    ] = {}


class Coverage(Record, frozen=True, kw_only=True):
    """When a day of the pipeline's source counts as loaded, as late, and as final."""

    tables: Annotated[
        tuple[Annotated[str, Meta(pattern=TABLE_PATTERN)], ...],
        Meta(
            description="The tables of the organization's dataset that prove it, each loaded by this "
            "pipeline: a day is loaded when it is in all of them.",
            min_length=1,
            max_length=10,
            examples=[["aws_focus", "focus_costs"]],
        ),
    ]
    unit: Annotated[
        Unit,
        Meta(
            description="What one load replaces. `day`: a day of the source. `month`: a whole month, "
            "whose days are loaded as far as the delivery reaches."
        ),
    ] = Unit.DAY
    expected_after_days: Annotated[
        int,
        Meta(
            description="Days after the end of a day. From then on it is missing if it is not "
            "loaded; before it is pending.",
            ge=0,
            le=60,
        ),
    ] = 1
    final_after_days: Annotated[
        int,
        Meta(
            description="Days after the end of the unit from which on the source changes nothing "
            "more. What was loaded after them is final, what was loaded before provisional.",
            ge=0,
            le=400,
            examples=[15],
        ),
    ]
    first_day: Annotated[
        date | None,
        Meta(
            description="No day before it is expected. `first_day` in the metadata of a credential "
            "takes its place.",
            examples=["2026-01-01"],
        ),
    ] = None

    def __post_init__(self) -> None:
        if len(set(self.tables)) < len(self.tables):
            raise ValueError("tables: names one of them twice")


class StepSpec(Record, frozen=True, kw_only=True):
    """One step of a pipeline."""

    step_id: Annotated[
        str,
        Meta(
            description="Name of the step, unique in its pipeline.",
            pattern=NAME_PATTERN,
            examples=["extract"],
        ),
    ]
    ps_type: Annotated[
        str, Meta(description="The processor that does the work.", examples=["generic.noop"])
    ]
    config: Annotated[
        dict[str, Json],
        Meta(description="What the processor is to do; which keys there are depends on ps_type."),
    ] = {}
    depends_on: Annotated[
        tuple[str, ...] | UnsetType,
        Meta(
            description=(
                "The steps that must be done before. Without this key a step follows the one "
                "before it; [] starts at once."
            ),
            examples=[["extract"], []],
        ),
    ] = UNSET
    timeout_seconds: Annotated[
        float,
        Meta(
            description="An attempt is stopped after this time. Above 540 it runs as a job.",
            ge=1,
            le=86_400,
            examples=[540],
        ),
    ] = 540
    retry: Annotated[
        RetryPolicy,
        Meta(description="When an attempt that failed for a passing reason is repeated."),
    ] = RetryPolicy()
    enabled: Annotated[
        bool, Meta(description="False skips the step, as if it had nothing to do.")
    ] = True
    on_failure: Annotated[
        OnFailure,
        Meta(description="Whether the run stops when the step fails, or goes on without it."),
    ] = OnFailure.STOP


class PipelineSpec(Record, frozen=True, kw_only=True):
    """A pipeline of the engine. Its address is its path: {provider}/{domain}/{pipeline}.yml."""

    pipeline_id: Annotated[
        str,
        Meta(
            description="Name of the pipeline, unique in the catalog; stands in every row it loads.",
            pattern=NAME_PATTERN,
            examples=["aws_cost_billing"],
        ),
    ]
    name: Annotated[
        str, Meta(description="Title for people.", max_length=200, examples=["AWS billing"])
    ] = ""
    description: Annotated[
        str, Meta(description="What the pipeline does, for people.", max_length=4000)
    ] = ""
    provider: Annotated[
        str,
        Meta(
            description="Who is billed, and whose credential is used.",
            pattern=NAME_PATTERN,
            examples=["aws"],
        ),
    ]
    domain: Annotated[
        str,
        Meta(description="What it is about.", pattern=NAME_PATTERN, examples=["cost"]),
    ]
    version: Annotated[
        str,
        Meta(
            description="Version of the file, for people.",
            min_length=1,
            max_length=64,
            examples=["1.0"],
        ),
    ] = "1.0"
    schedule: Annotated[
        Cron | Schedule | None,
        Meta(
            description="When it runs by itself: a cron expression in UTC, or the whole record.",
            examples=["0 6 * * *", {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}],
        ),
    ] = None
    timeout_minutes: Annotated[
        float,
        Meta(
            description="A run is stopped after this time.",
            ge=1,
            le=10_080,
            examples=[60],
        ),
    ] = 60
    variables: Annotated[
        dict[Annotated[str, Meta(pattern=VARIABLE_PATTERN, max_length=63)], Json],
        Meta(
            description=(
                "Names for the templates in config, each with its default; a request may give "
                "other values as its parameters."
            ),
            examples=[{"days": 30}],
        ),
    ] = {}
    notifications: Annotated[
        tuple[Notification, ...], Meta(description="Who hears of the end of a run.")
    ] = ()
    triggers: Annotated[
        tuple[EventTrigger, ...], Meta(description="Events of other systems that start a run.")
    ] = ()
    coverage: Annotated[
        Coverage | None,
        Meta(
            description="How the days are judged that it has loaded. Without it nobody keeps count."
        ),
    ] = None
    steps: Annotated[
        tuple[StepSpec, ...],
        Meta(description="The steps, in order.", min_length=1, max_length=MAX_STEPS),
    ]
