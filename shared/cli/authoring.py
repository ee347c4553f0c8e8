"""`pipelines validate` and `schema`: work on files alone, without an API."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.cli import show
from shared.cli.options import AsJson
from shared.cli.stop import Code, Stop
from shared.errors import ConfigError, Fault


class Kind(StrEnum):
    """What a schema describes."""

    PIPELINE = "pipeline"
    PROVIDERS = "providers"


_PLANS = Path("system") / "plans.yml"
_DEPTH = 3  # [category/]provider/domain/pipeline.yml


def validate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Pipeline files, or folders of them.")
    ],
    as_json: AsJson = False,
) -> None:
    """Check pipeline files: every fault at once, as file:line:column. Exit code 2 if there is one."""
    processors = _processors()
    checked = 0
    faults: list[Fault] = []
    for path in paths:
        count, found = _check(path, processors)
        checked += count
        faults += found
    if as_json:
        _print_json(checked, faults)
    for fault in faults:
        show.err().print(str(fault))
    if faults:
        files = len({fault.where.split(":")[0] for fault in faults})
        show.err().print(f"{_plural(len(faults), 'fault')} in {_plural(files, 'file')}")
        raise typer.Exit(Code.BAD_INPUT)
    if not as_json:
        show.lines(f"{_plural(checked, 'pipeline')}: no fault")


def schema(
    of: Annotated[
        Kind, typer.Option(help="Of pipeline files, or of configs/system/providers.yml.")
    ] = Kind.PIPELINE,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Compare with the file instead; exit code 2 if it differs."
        ),
    ] = None,
) -> None:
    """Print a JSON Schema, for editors: configs/schema.json, configs/system/providers.schema.json."""
    from shared.core.schema import (  # noqa: PLC0415  # a command for authors only
        pipeline_schema,
        providers_schema,
        schema_text,
    )

    text = schema_text(
        pipeline_schema(_processors()) if of is Kind.PIPELINE else providers_schema()
    )
    if check is None:
        sys.stdout.write(text)
        return
    try:
        same = check.read_text(encoding="utf-8") == text
    except OSError as error:
        raise Stop(Code.BAD_INPUT, f"{check}: cannot be read: {error.strerror}") from error
    if not same:
        raise Stop(
            Code.BAD_INPUT,
            f"{check} is not the schema of this release",
            hint=f"pipelines schema --of {of.value} > {check}",
        )
    show.lines(f"{check} is the schema of this release")


def _check(path: Path, processors: Mapping[str, Any]) -> tuple[int, list[Fault]]:
    """How many pipelines there are at `path`, and all their faults."""
    from shared.core.parse import load_pipeline  # noqa: PLC0415  # a command for authors only
    from shared.engine.catalog import Catalog  # noqa: PLC0415  # a command for authors only

    if path.is_dir():
        files = sorted(path.rglob("*.yml"))
        whole = [file for file in files if len(file.relative_to(path).parts) >= _DEPTH]
        if whole or not files:  # with its addresses; a folder inside of it is checked file by file
            faults = _plan_faults(path / _PLANS)
            try:
                return len(Catalog.load(path, processors)), faults
            except ConfigError as error:
                return len(files), [*error.faults, *faults]
    else:
        files = [path]
    found: list[Fault] = []
    for file in files:
        try:
            load_pipeline(str(file), file.read_bytes(), processors)
        except ConfigError as error:
            found += error.faults
        except OSError as error:
            found.append(Fault(str(file), f"cannot be read: {error.strerror}"))
    return len(files), found


def _plan_faults(path: Path) -> list[Fault]:
    from shared.core.plans import parse_plans  # noqa: PLC0415  # a command for authors only

    if not path.is_file():
        return []
    try:
        parse_plans(path.read_text(encoding="utf-8"), str(path))
    except ConfigError as error:
        return list(error.faults)
    except (OSError, UnicodeDecodeError) as error:
        return [Fault(str(path), f"cannot be read: {error}")]
    return []


def _processors() -> Mapping[str, Any]:
    from shared.processors import PROCESSORS  # noqa: PLC0415  # a command for authors only

    return PROCESSORS


def _print_json(checked: int, faults: list[Fault]) -> None:

    told = [{"where": fault.where, "message": fault.message} for fault in faults]
    sys.stdout.write(json.dumps({"pipelines": checked, "faults": told}, indent=2) + "\n")


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
