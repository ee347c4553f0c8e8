"""Plans of organizations: the limits each one grants, and the reading of `configs/system/plans.yml`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.core.record import Document, Json, Record
from shared.errors import ConfigError, Fault


class Limits(Document, frozen=True, kw_only=True):
    """Runs an organization may start; None is unlimited."""

    daily: int | None
    monthly: int | None
    concurrent: int


RunCount = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class _Written(Record, frozen=True, kw_only=True):
    daily: RunCount | Literal["unlimited"]
    monthly: RunCount | Literal["unlimited"]
    concurrent: RunCount


def parse_plans(text: str, file: str) -> dict[str, Limits]:
    """The plans of a YAML text by name. Raises ConfigError with every faulty plan as `file:line`."""
    import yaml  # noqa: PLC0415 -- a function that is given its plans does not pay for a parser

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        loaded: Json = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError([Fault(where, problem)]) from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise ConfigError(
            [Fault(file, "a plan is `name: {daily, monthly, concurrent}`; none found")]
        )
    plans: dict[str, Limits] = {}
    faults: list[Fault] = []
    seen: set[str] = set()
    for key, _ in root.value:
        name = str(key.value)
        where = f"{file}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
        if name in seen or not isinstance(key.value, str) or key.value not in loaded:
            twice = f"plan {name!r} is written twice"
            faults.append(Fault(where, twice if name in seen else f"{name!r} is no name of a plan"))
            continue
        seen.add(name)
        try:
            written = msgspec.convert(loaded[name], _Written)
        except msgspec.ValidationError as error:
            reason = f"{error}; each limit is a whole number or `unlimited`, concurrent a number"
            faults.append(Fault(where, f"plan {name!r}: {reason}"))
            continue
        plans[name] = Limits(
            daily=None if written.daily == "unlimited" else written.daily,
            monthly=None if written.monthly == "unlimited" else written.monthly,
            concurrent=written.concurrent,
        )
    if faults:
        raise ConfigError(faults)
    return plans
