"""Reads a pipeline file: a Pipeline that can be run, or a ConfigError with every fault of the file."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec

from shared.core import yaml
from shared.core.cron import cron_fault, zone_fault
from shared.core.dag import cycles
from shared.core.nearmiss import clipped, did_you_mean, listed
from shared.core.pipeline import (
    CREDENTIAL_PREFIX,
    STANDARD_VARIABLES,
    Pipeline,
    Processors,
    Step,
    address_of,
)
from shared.core.places import MAX_FAULTS, UNREAD, Path, dotted, fault
from shared.core.plan import RetryPolicy
from shared.core.providers import Providers
from shared.core.spec import PipelineSpec, Schedule, StepSpec
from shared.core.template import check_templates
from shared.core.typed import check
from shared.errors import ConfigError, Fault


def load_pipeline(
    path: str, text: bytes, processors: Processors, providers: Providers | None = None
) -> Pipeline:
    """The pipeline in `text`, the content of the file called `path`.

    With `providers` its provider has to be one of them, by its name.
    Raises ConfigError with all faults, each as `path:line:column`, in the order of the file.
    """
    source = yaml.read(path, text)
    faults = list(source.faults)
    if source.value is not UNREAD:
        places = _FilePlaces(source)
        faults += check(source.value, PipelineSpec, places)
        if isinstance(source.value, dict):
            faults += _Checks(source.value, places, processors, providers).run()
    if faults:
        raise ConfigError(_in_order(faults))
    spec = msgspec.convert(source.value, PipelineSpec)
    fields = {name: getattr(spec, name) for name in PipelineSpec.__struct_fields__}
    fields["schedule"] = (
        Schedule(cron=spec.schedule) if isinstance(spec.schedule, str) else spec.schedule
    )
    fields["steps"] = tuple(
        _step(step, spec.steps[index - 1] if index else None)
        for index, step in enumerate(spec.steps)
    )
    return Pipeline(address=address_of(path), config_hash=sha256(text).hexdigest(), **fields)


def _step(spec: StepSpec, before: StepSpec | None) -> Step:
    fields = {name: getattr(spec, name) for name in StepSpec.__struct_fields__}
    if spec.depends_on is msgspec.UNSET:
        fields["depends_on"] = (before.step_id,) if before else ()
    return Step(**fields)


def _in_order(faults: list[Fault]) -> list[Fault]:
    def place(found: Fault) -> tuple[int, int]:
        _, line, column = found.where.rsplit(":", 2)
        return int(line), int(column)

    ordered = sorted(dict.fromkeys(faults), key=place)
    if len(ordered) <= MAX_FAULTS:
        return ordered
    more = Fault(ordered[MAX_FAULTS].where, "and more from here on; mend the others first")
    return [*ordered[:MAX_FAULTS], more]


class _FilePlaces:
    """Places of a YAML file: line and column, and the step that a fault is about."""

    echo = True

    def __init__(self, source: yaml.Source) -> None:
        self.source = source

    def at(self, path: Path, *, key: bool = False) -> str:
        return self.source.at(path, key=key)

    def line(self, path: Path) -> int:
        return self.source.mark(path)[0]

    def label(self, path: Path) -> str:
        match path:
            case ("steps", int(index), *inner):
                return f"{self.step(index)} {dotted(tuple(inner))}".rstrip()
        return dotted(path) or "the file"

    def step(self, index: int) -> str:
        step = self.source.value["steps"][index]
        name = step.get("step_id") if isinstance(step, dict) else None
        return f"step {clipped(name)}:" if isinstance(name, str) else f"step {index + 1}:"


class _Checks:
    """What the types cannot say. Works on what was read, whether or not the types are right."""

    def __init__(
        self,
        raw: dict[str, Any],
        places: _FilePlaces,
        processors: Processors,
        providers: Providers | None,
    ) -> None:
        self.raw = raw
        self.places = places
        self.processors = processors
        self.providers = providers
        self.faults: list[Fault] = []
        variables = raw.get("variables")
        self.variables: dict[str, Any] = variables if isinstance(variables, dict) else {}
        listing = raw.get("steps")
        self.steps: list[tuple[int, dict[str, Any]]] = [
            (index, step)
            for index, step in enumerate(listing if isinstance(listing, list) else [])
            if isinstance(step, dict)
        ]

    def run(self) -> list[Fault]:
        self.provider()
        self.schedule()
        self.own_variables()
        self.ids()
        self.parents()
        for index, step in self.steps:
            if len(self.faults) > MAX_FAULTS:
                break
            self.config(index, step)
            self.times(index, step)
        return self.faults

    def add(self, path: Path, message: str, *, key: bool = False) -> None:
        self.faults.append(fault(self.places, path, message, key=key))

    def of_step(self, index: int, at: Path, message: str) -> None:
        """A fault at a place inside the step, in a sentence of its own."""
        where = self.places.at(("steps", index, *at))
        self.faults.append(Fault(where, f"{self.places.step(index)} {message}"))

    def provider(self) -> None:
        word = self.raw.get("provider")
        if self.providers is None or not isinstance(word, str):
            return
        found = self.providers.find(word)
        if found is None:
            self.add(("provider",), f"cannot be found: {self.providers.unknown(word)}")
        elif found.name != word:
            self.add(("provider",), f"{clipped(word)} is an alias: write {found.name}")

    def schedule(self) -> None:
        schedule = self.raw.get("schedule")
        if isinstance(schedule, str):
            self.cron(("schedule",), schedule)
        elif isinstance(schedule, dict):
            self.cron(("schedule", "cron"), schedule.get("cron"))
            zone = schedule.get("timezone")
            if isinstance(zone, str) and (wrong := zone_fault(zone)):
                self.add(("schedule", "timezone"), wrong)

    def cron(self, path: Path, expression: object) -> None:
        if isinstance(expression, str) and (wrong := cron_fault(expression)):
            self.add(path, f"is no cron expression: {wrong}")

    def own_variables(self) -> None:
        for name in self.variables:
            if name in STANDARD_VARIABLES:
                self.add(("variables", name), "is a variable of every run already", key=True)
            elif name.startswith(CREDENTIAL_PREFIX):
                message = f"must not begin with {CREDENTIAL_PREFIX}: that is the credential's"
                self.add(("variables", name), message, key=True)
        # a variable may be made of those of the run, not of another one: nothing is resolved twice
        self.faults += check_templates(
            self.variables,
            STANDARD_VARIABLES,
            self.places,
            ("variables",),
            prefixes=(CREDENTIAL_PREFIX,),
        )

    def ids(self) -> None:
        first: dict[str, int] = {}
        for index, step in self.steps:
            name = step.get("step_id")
            if not isinstance(name, str):
                continue
            if name in first:
                line = self.places.line(("steps", first[name], "step_id"))
                self.of_step(index, ("step_id",), f"the step_id is used in line {line} already")
            first.setdefault(name, index)

    def parents(self) -> None:
        place = {
            step["step_id"]: index
            for index, step in reversed(self.steps)
            if isinstance(step.get("step_id"), str)
        }
        graph: dict[str, list[str]] = {}
        before: str | None = None
        for index, step in self.steps:
            name = step.get("step_id")
            wanted = step.get("depends_on", [before] if before else [])
            parents = wanted if isinstance(wanted, list) else []
            for position, parent in enumerate(parents if "depends_on" in step else []):
                if isinstance(parent, str):
                    self.parent(index, position, parent, parents, place)
            if isinstance(name, str) and place[name] == index:
                graph[name] = [parent for parent in parents if isinstance(parent, str)]
            before = name if isinstance(name, str) else None
        for cycle in cycles(graph):
            if len(cycle) > 2:  # a step that waits for itself has its fault
                message = f"the steps wait for each other: {' → '.join(cycle)}"
                self.of_step(place[cycle[0]], ("depends_on",), message)

    def parent(
        self, index: int, position: int, parent: str, parents: list[Any], place: dict[str, int]
    ) -> None:
        at: Path = ("depends_on", position)
        if parent not in place:
            near = did_you_mean(parent, place)
            self.of_step(index, at, f"depends_on {clipped(parent)} is not a step{near}")
        elif parent == self.raw["steps"][index].get("step_id"):
            self.of_step(index, at, "depends_on names the step itself")
        elif parent in parents[:position]:
            self.of_step(index, at, f"depends_on names {clipped(parent)} twice")

    def config(self, index: int, step: dict[str, Any]) -> None:
        path: Path = ("steps", index, "config")
        config = step.get("config", {})
        ps_type = step.get("ps_type")
        if isinstance(ps_type, str):
            processor = self.processors.get(ps_type)
            if processor is None:
                near = did_you_mean(ps_type, self.processors)
                known = "" if near else f"; known: {listed(self.processors)}"
                message = f"ps_type {clipped(ps_type)} is not a processor{near}{known}"
                self.of_step(index, ("ps_type",), message)
            elif isinstance(config, dict):
                self.faults += check(config, processor.config, self.places, path, templates=True)
        known_names = STANDARD_VARIABLES.union(self.variables)
        self.faults += check_templates(
            config, known_names, self.places, path, prefixes=(CREDENTIAL_PREFIX,)
        )

    def times(self, index: int, step: dict[str, Any]) -> None:
        seconds, minutes = step.get("timeout_seconds"), self.raw.get("timeout_minutes", 60)
        if _is_number(seconds) and _is_number(minutes) and seconds > minutes * 60:
            message = f"timeout_seconds {seconds} is more than timeout_minutes {minutes} of the run"
            self.of_step(index, ("timeout_seconds",), message)
        retry = step.get("retry")
        if isinstance(retry, dict):
            least = retry.get("backoff_seconds", _RETRY.backoff_seconds)
            most = retry.get("max_backoff_seconds", _RETRY.max_backoff_seconds)
            if _is_number(least) and _is_number(most) and least > most:
                message = f"backoff_seconds {least} is more than max_backoff_seconds {most}"
                self.of_step(index, ("retry",), message)


_RETRY = RetryPolicy()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
