from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.core import yaml
from shared.core.schema import pipeline_schema, providers_schema, schema_text
from shared.processors import PROCESSORS

REPOSITORY = Path(__file__).parents[2]
COMMITTED = REPOSITORY / "configs" / "schema.json"
PROVIDERS = REPOSITORY / "configs" / "system" / "providers.yml"
MODELINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")
PIPELINES = [
    path
    for folder in ("configs", "tests/pipelines")
    for path in sorted((REPOSITORY / folder).rglob("*.yml"))
    if REPOSITORY / "configs" / "system" not in path.parents
]

SCHEMA: dict[str, Any] = pipeline_schema(PROCESSORS)


KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


def mismatches(value: Any, schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """Where a value breaks a schema: as much of JSON Schema as ours uses."""
    if wanted := schema.get("type"):
        number = wanted in {"integer", "number"}
        if not isinstance(value, KINDS[wanted]) or (number and isinstance(value, bool)):
            yield f"{at}: no {wanted}"
            return
    yield from scalar_mismatches(value, schema, at)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at}: wrong length"
        for index, inner in enumerate(value):
            yield from mismatches(inner, schema.get("items", {}), f"{at}[{index}]")
    if isinstance(value, dict):
        yield from object_mismatches(value, schema, at)
    yield from combined_mismatches(value, schema, at)


def scalar_mismatches(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if "const" in schema and value != schema["const"]:
        yield f"{at}: not {schema['const']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: none of {schema['enum']}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{at}: not {schema['pattern']}"
    if isinstance(value, int | float) and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
    ):
        yield f"{at}: out of range"


def object_mismatches(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    properties, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    yield from (f"{at}.{key}: missing" for key in schema.get("required", ()) if key not in value)
    for key, inner in value.items():
        if key in properties:
            yield from mismatches(inner, properties[key], f"{at}.{key}")
        elif other is False:
            yield f"{at}.{key}: unknown"
        elif isinstance(other, dict):
            yield from mismatches(inner, other, f"{at}.{key}")


def combined_mismatches(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if "$ref" in schema:
        yield from mismatches(value, target_of(schema["$ref"]), at)
    options = schema.get("anyOf", [])
    if options and all(list(mismatches(value, option, at)) for option in options):
        yield f"{at}: fits none of {len(options)} ways"
    for part in schema.get("allOf", ()):
        if not list(mismatches(value, part["if"], at)):
            yield from mismatches(value, part["then"], at)


def target_of(reference: str) -> Any:
    target: Any = SCHEMA
    for part in reference.removeprefix("#/").split("/"):
        target = target[part]
    return target


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def pipeline(step: dict[str, Any], **more: Any) -> dict[str, Any]:
    steps = [{"step_id": "a", **step}]
    return {"pipeline_id": "p", "provider": "x", "domain": "y", "steps": steps, **more}


@pytest.mark.parametrize(
    ("path", "schema"),
    [(COMMITTED, SCHEMA), (PROVIDERS.with_suffix(".schema.json"), providers_schema())],
    ids=["pipelines", "providers"],
)
def test_a_committed_schema_is_the_one_of_this_code(path: Path, schema: dict[str, Any]) -> None:
    assert path.read_text(encoding="utf-8") == schema_text(schema), (
        f"{path} is out of date: write it again with `pipelines schema --of …`"
    )


def test_the_registry_of_providers_names_its_schema_in_its_first_line() -> None:
    named = MODELINE.match(PROVIDERS.read_text(encoding="utf-8"))
    assert named
    assert PROVIDERS.with_name(named[1]) == PROVIDERS.with_suffix(".schema.json")


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_names_the_schema_in_its_first_line(path: Path) -> None:
    named = MODELINE.match(path.read_text(encoding="utf-8"))
    assert named, f"{path}: the first line must be `# yaml-language-server: $schema=…/schema.json`"
    assert (path.parent / named[1]).resolve() == COMMITTED


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_fits_the_schema_that_its_author_sees(path: Path) -> None:
    source = yaml.read(path.name, path.read_bytes())
    assert list(mismatches(source.value, SCHEMA)) == []


def test_every_reference_leads_somewhere() -> None:
    references = [node["$ref"] for node in nodes(SCHEMA) if "$ref" in node]
    assert references
    for reference in references:
        assert isinstance(target_of(reference), dict)


def test_every_field_is_described_to_its_author() -> None:
    for record in nodes(SCHEMA):
        if record.get("additionalProperties") is False:
            for name, field in record["properties"].items():
                assert field.get("description"), f"{record['title']}.{name} has no description"


@pytest.mark.parametrize(
    ("value", "faults"),
    [
        (pipeline({"ps_type": "generic.noop", "config": {"sleep_seconds": 1.5}}), []),
        (pipeline({"ps_type": "generic.noop", "config": {"sleep_seconds": "{pause}"}}), []),
        (pipeline({"ps_type": "generic.noop", "depends_on": []}), []),
        (pipeline({"ps_type": "generic.noop"}, schedule="0 6 * * *"), []),
        (pipeline({"ps_type": "generic.noop"}, schedule={"cron": "@daily"}), []),
        (
            pipeline({"ps_type": "generic.noop", "config": {"sleep_seconds": "long"}}),
            [".steps[0].config.sleep_seconds: fits none of 2 ways"],
        ),
        (
            pipeline({"ps_type": "generic.noop", "config": {"sleep": 1}}),
            [".steps[0].config.sleep: unknown"],
        ),
        (pipeline({"ps_type": "generic.noop", "timeout": 1}), [".steps[0].timeout: unknown"]),
        (pipeline({}), [".steps[0].ps_type: missing"]),
        (pipeline({"ps_type": "cloud.billing_export"}), [".steps[0].config: missing"]),
        (pipeline({"ps_type": "generic.noop"}, steps=[]), [".steps: wrong length"]),
    ],
)
def test_the_schema_knows_what_fits_a_step(value: dict[str, Any], faults: list[str]) -> None:
    assert list(mismatches(value, SCHEMA)) == faults


def test_the_schema_does_not_depend_on_the_order_of_the_processors() -> None:
    backwards = dict(reversed(list(PROCESSORS.items())))
    assert schema_text(pipeline_schema(backwards)) == schema_text(SCHEMA)
