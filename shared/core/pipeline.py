"""A pipeline that can be run, and the plan of one run of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol, TypeAlias

from shared.core.dag import order
from shared.core.nearmiss import did_you_mean, listed
from shared.core.places import JSON, Path
from shared.core.plan import Plan, StepPlan
from shared.core.record import Json, Record
from shared.core.run import Params
from shared.core.spec import PipelineSpec, Schedule, StepSpec
from shared.core.template import resolve, unknown
from shared.core.typed import check
from shared.errors import Fault, Invalid

# What every run knows; a pipeline's own variables come beside them.
STANDARD_VARIABLES = frozenset(
    {
        "org_slug",
        "project_id",
        "org_dataset",
        "start_date",
        "end_date",
        "credential_id",
        "pipeline_id",
        "run_id",
        "provider",
    }
)
CREDENTIAL_PREFIX = "credential_"  # and a key of the credential's metadata


class ProcessorType(Protocol):
    """What the core must know of a processor."""

    @property
    def config(self) -> type[Record]: ...

    @property
    def needs_credential(self) -> bool: ...


Processors: TypeAlias = Mapping[str, ProcessorType]


class Step(StepSpec, frozen=True, kw_only=True):
    """A step whose parents are written out."""

    depends_on: tuple[str, ...] = ()


class Pipeline(PipelineSpec, frozen=True, kw_only=True):
    """A pipeline that is known to be valid, but for what only a run can tell. Steps in file order."""

    address: str
    config_hash: str
    schedule: Schedule | None = None
    steps: tuple[Step, ...]

    def needs_credential(self, processors: Processors) -> bool:
        """Does any step that will run need one?"""
        return any(processors[step.ps_type].needs_credential for step in self.steps if step.enabled)


def address_of(path: str) -> str:
    """`aws/cost/billing` for `configs/cloud/aws/cost/billing.yml`: the last three parts."""
    return "/".join(path.removesuffix(".yml").split("/")[-3:])


def resolve_plan(
    pipeline: Pipeline,
    processors: Processors,
    *,
    org: str,
    project_id: str,
    dataset: str,
    run_id: str,
    params: Params,
    credential_metadata: Mapping[str, Json],
) -> Plan:
    """The plan of the run. `credential_metadata` is what is not secret of the run's credential.

    `params.parameters` take the place of the pipeline's variables of the same name; what they hold is
    never read as a template. A step that is not enabled keeps no config. Raises Invalid with all
    faults: a parameter that no variable answers to, metadata that the credential does not have, a
    value that does not fit its processor.
    """
    faults = _strangers(pipeline, params)
    variables: dict[str, Json] = {
        **{f"{CREDENTIAL_PREFIX}{key}": value for key, value in credential_metadata.items()},
        "org_slug": org,
        "project_id": project_id,
        "org_dataset": dataset,
        "start_date": params.start_date.isoformat(),
        "end_date": params.end_date.isoformat(),
        "credential_id": params.credential_id,
        "pipeline_id": pipeline.pipeline_id,
        "run_id": run_id,
        "provider": pipeline.provider,
    }
    own = {
        name: params.parameters[name]
        if name in params.parameters
        else _resolved(default, variables, ("variables", name), faults)
        for name, default in pipeline.variables.items()
    }
    variables |= own
    steps = {step.step_id: _planned(step, variables, processors, faults) for step in pipeline.steps}
    if faults:
        raise Invalid(f"the pipeline {pipeline.address} cannot run with these values", faults)
    parents = {step.step_id: step.depends_on for step in pipeline.steps}
    return Plan(
        address=pipeline.address,
        pipeline_id=pipeline.pipeline_id,
        provider=pipeline.provider,
        domain=pipeline.domain,
        version=pipeline.version,
        config_hash=pipeline.config_hash,
        steps=tuple(steps[step_id] for step_id in order(parents)),
        timeout_minutes=pipeline.timeout_minutes,
    )


def _strangers(pipeline: Pipeline, params: Params) -> list[Fault]:
    known = pipeline.variables
    rest = f"known: {listed(known)}" if known else "it has none"
    return [
        Fault(
            f"parameters.{name}",
            f"is not a variable of the pipeline{did_you_mean(name, known)}; {rest}",
        )
        for name in params.parameters
        if name not in known
    ]


def _resolved(value: Json, variables: Mapping[str, Json], path: Path, faults: list[Fault]) -> Json:
    try:
        return resolve(value, variables, path=path, say=_unknown)
    except Invalid as invalid:
        faults += invalid.faults
        return None


def _unknown(name: str, known: Collection[str]) -> str:
    """Says of a name that only a credential could have known that this one does not."""
    if not name.startswith(CREDENTIAL_PREFIX):
        return unknown(name, known)
    own = {other for other in known if other.startswith(CREDENTIAL_PREFIX)} - STANDARD_VARIABLES
    key = name.removeprefix(CREDENTIAL_PREFIX)
    keys = listed(other.removeprefix(CREDENTIAL_PREFIX) for other in own) or "nothing"
    return f"needs {key!r} in the metadata of the credential, which has {keys}"


def _planned(
    step: Step, variables: Mapping[str, Json], processors: Processors, faults: list[Fault]
) -> StepPlan:
    config: dict[str, Json] = {}
    if step.enabled:
        path: Path = ("steps", step.step_id, "config")
        before = len(faults)
        config = _resolved(step.config, variables, path, faults)
        if len(faults) == before:
            faults += check(config, processors[step.ps_type].config, JSON, path)
    return StepPlan(
        step_id=step.step_id,
        ps_type=step.ps_type,
        config=config,
        depends_on=step.depends_on,
        timeout_seconds=step.timeout_seconds,
        retry=step.retry,
        on_failure=step.on_failure,
        enabled=step.enabled,
    )
