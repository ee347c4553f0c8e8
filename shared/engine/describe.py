"""What a caller must know of a pipeline to run it: its parameters, its steps, its credential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from shared.core.pipeline import Pipeline, Step
from shared.core.record import Document, Json
from shared.core.spec import Coverage, Schedule
from shared.core.template import parse
from shared.step import Processor


class Parameter(Document, frozen=True, kw_only=True, omit_defaults=False):
    """A variable of the pipeline, in whose place a run may put a value of its own."""

    name: str
    default: Json
    type: Annotated[
        str | None, Meta(description="As JSON Schema has it; null where any value may stand.")
    ]
    description: str


class StepDetail(Document, frozen=True, kw_only=True, omit_defaults=False):
    """A step as the file has it."""

    step_id: str
    ps_type: str
    description: str
    depends_on: tuple[str, ...]
    timeout_seconds: float
    max_attempts: int
    enabled: bool


class CredentialNeed(Document, frozen=True, kw_only=True, omit_defaults=False):
    """Whether a run needs a credential, and of which provider."""

    needed: bool
    provider: str


class PipelineDetail(Document, frozen=True, kw_only=True, omit_defaults=False):
    """A whole pipeline."""

    address: str
    pipeline_id: str
    name: str
    description: str
    provider: str
    domain: str
    version: str
    config_hash: str
    timeout_minutes: float
    schedule: Schedule | None
    coverage: Coverage | None
    credential: CredentialNeed
    parameters: tuple[Parameter, ...]
    steps: tuple[StepDetail, ...]


def describe(pipeline: Pipeline, processors: Mapping[str, Processor]) -> PipelineDetail:
    """The pipeline as a caller sees it."""
    schemas = parameter_schemas(pipeline, processors)
    return PipelineDetail(
        address=pipeline.address,
        pipeline_id=pipeline.pipeline_id,
        name=pipeline.name,
        description=pipeline.description,
        provider=pipeline.provider,
        domain=pipeline.domain,
        version=pipeline.version,
        config_hash=pipeline.config_hash,
        timeout_minutes=pipeline.timeout_minutes,
        schedule=pipeline.schedule,
        coverage=pipeline.coverage,
        credential=CredentialNeed(
            needed=pipeline.needs_credential(processors), provider=pipeline.provider
        ),
        parameters=tuple(
            Parameter(
                name=name,
                default=default,
                type=schemas[name].get("type"),
                description=schemas[name].get("description", ""),
            )
            for name, default in pipeline.variables.items()
        ),
        steps=tuple(_step(step, processors) for step in pipeline.steps),
    )


def parameter_schemas(
    pipeline: Pipeline, processors: Mapping[str, Processor]
) -> dict[str, dict[str, Any]]:
    """The JSON Schema of each parameter.

    A parameter that is the whole value of a field of a step's config must be what that field must be.
    One that is only part of a text, or inside a list, may be anything that the step can make sense of.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in pipeline.variables}
    for step in pipeline.steps:
        fields = _fields(processors[step.ps_type])
        for field, value in step.config.items():
            name = _whole(value)
            if name in found and field in fields and step.enabled:
                # The first field's words; where several fields differ, the step says what it wants.
                found[name] = found[name] or fields[field]
    for name, default in pipeline.variables.items():
        found[name] = {**found[name], "default": default}
    return found


def _fields(processor: Processor) -> dict[str, dict[str, Any]]:
    """The schemas of the config's fields that need no other definition."""
    name = processor.config.__name__
    schema = msgspec.json.schema_components([processor.config])[1][name]
    return {
        field: {key: value for key, value in said.items() if key != "default"}
        for field, said in schema["properties"].items()
        if "$ref" not in msgspec.json.encode(said).decode()
    }


def _whole(value: Json) -> str | None:
    """The name of the one template that the value is."""
    return parse(value).whole if isinstance(value, str) else None


def _step(step: Step, processors: Mapping[str, Processor]) -> StepDetail:
    return StepDetail(
        step_id=step.step_id,
        ps_type=step.ps_type,
        description=processors[step.ps_type].description,
        depends_on=step.depends_on,
        timeout_seconds=step.timeout_seconds,
        max_attempts=step.retry.max_attempts,
        enabled=step.enabled,
    )
