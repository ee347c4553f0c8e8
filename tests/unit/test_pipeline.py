from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from shared.core.parse import load_pipeline
from shared.core.period import Unit
from shared.core.pipeline import Pipeline, address_of, resolve_plan
from shared.core.plan import OnFailure, Plan, RetryPolicy
from shared.core.record import Json, Record
from shared.core.run import Params
from shared.core.spec import Catchup, Coverage, Ending, Overlap, Schedule
from shared.errors import ConfigError, Fault, Invalid
from tests.support.examples import examples


class Mode(StrEnum):
    FULL = "full"
    DELTA = "delta"


class ExtractConfig(Record, frozen=True, kw_only=True):
    source: str
    days: Annotated[int, Meta(ge=1, le=90)] = 1
    mode: Mode = Mode.FULL
    since: date | None = None
    tables: tuple[str, ...] = ()
    options: Json = None


class NoConfig(Record, frozen=True, kw_only=True):
    pass


@dataclass(frozen=True)
class Kind:
    config: type[Record]
    needs_credential: bool


PROCESSORS = {"api.extract": Kind(ExtractConfig, True), "generic.noop": Kind(NoConfig, False)}
HEAD = "pipeline_id: p\nprovider: openai\ndomain: payg\n"


def load(text: str, path: str = "configs/genai/payg/openai.yml") -> Pipeline:
    return load_pipeline(path, text.encode(), PROCESSORS)


def faults(text: str, path: str = "f.yml") -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(text, path)
    assert str(raised.value) == "\n".join(str(fault) for fault in raised.value.faults)
    return [str(fault) for fault in raised.value.faults]


def with_steps(steps: str) -> Pipeline:
    return load(HEAD + "steps:\n" + steps)


def faults_of_steps(steps: str) -> list[str]:
    """The faults, with lines counted from the first line of `steps`."""
    return [
        f"{int(line) - 4}:{rest}"
        for _, line, rest in (found.split(":", 2) for found in faults(HEAD + "steps:\n" + steps))
    ]


def plan(pipeline: Pipeline, credential: dict[str, Json] | None = None, **parameters: Json) -> Plan:
    return resolve_plan(
        pipeline,
        PROCESSORS,
        org="acme",
        project_id="project",
        dataset="acme_prod",
        run_id="r1",
        params=Params(
            start_date=date(2026, 1, 1),
            end_date=date(2026, 1, 31),
            credential_id="main",
            parameters=parameters,
        ),
        credential_metadata=credential or {},
    )


def plan_faults(pipeline: Pipeline, *args: Any, **parameters: Json) -> list[str]:
    with pytest.raises(Invalid) as raised:
        plan(pipeline, *args, **parameters)
    return [str(fault) for fault in raised.value.faults]


WHOLE = """\
# a pipeline that uses every field
pipeline_id: openai_usage
name: OpenAI usage
description: What was used.
provider: openai
domain: payg
version: "2.1"
schedule: {cron: "0 6 * * 1-5", timezone: Europe/Berlin, overlap: allow, catchup: last}
timeout_minutes: 90
variables:
  days: 30
  bucket: "exports-{org_slug}"
notifications:
  - on: [failed, no_data]
    channels: [ops-mail]
  - {}
triggers:
  - event: file.arrived
    match: {data.bucket: exports, data.size: 3}
    parameters: {start_date: data.day}
coverage:
  tables: [openai_usage, focus_costs]
  unit: month
  expected_after_days: 2
  final_after_days: 10
  first_day: 2026-01-01
steps:
  - step_id: extract
    ps_type: api.extract
    config:
      source: "{bucket}/${credential_folder}/{start_date}"
      days: "{days}"
      since: "{end_date}"
      options: {"{days}": "{{days}} of {days}"}
    timeout_seconds: 1800
    retry: {max_attempts: 5, backoff_seconds: 10, exponential: true}
  - step_id: tidy
    ps_type: generic.noop
    on_failure: continue
  - step_id: alone
    ps_type: generic.noop
    depends_on: []
    enabled: false
"""


def test_a_file_that_uses_every_field_is_loaded() -> None:
    pipeline = load(WHOLE)
    assert pipeline.address == "configs/genai/payg/openai"[8:]
    assert pipeline.config_hash == sha256(WHOLE.encode()).hexdigest()
    assert pipeline.schedule == Schedule(
        cron="0 6 * * 1-5",
        timezone="Europe/Berlin",
        overlap=Overlap.ALLOW,
        catchup=Catchup.LAST,
    )
    assert pipeline.version == "2.1"
    assert pipeline.notifications[0].on == (Ending.FAILED, Ending.NO_DATA)
    assert pipeline.triggers[0].match == {"data.bucket": "exports", "data.size": 3}
    assert pipeline.coverage == Coverage(
        tables=("openai_usage", "focus_costs"),
        unit=Unit.MONTH,
        expected_after_days=2,
        final_after_days=10,
        first_day=date(2026, 1, 1),
    )
    extract, tidy, alone = pipeline.steps
    assert extract.retry == RetryPolicy(max_attempts=5, backoff_seconds=10, exponential=True)
    assert extract.config["days"] == "{days}"
    assert tidy.on_failure is OnFailure.CONTINUE
    assert not alone.enabled


def test_a_short_file_has_the_defaults_of_the_house() -> None:
    pipeline = with_steps("  - {step_id: a, ps_type: generic.noop}")
    assert (pipeline.name, pipeline.schedule, pipeline.timeout_minutes) == ("", None, 60)
    assert pipeline.coverage is None
    [step] = pipeline.steps
    assert (step.timeout_seconds, step.enabled, step.config) == (540, True, {})
    assert (step.retry.max_attempts, step.retry.backoff_seconds) == (3, 30)
    assert step.on_failure is OnFailure.STOP


def test_a_schedule_may_be_a_cron_expression_alone() -> None:
    steps = "steps: [{step_id: a, ps_type: generic.noop}]"
    assert load(f"{HEAD}schedule: 0 6 * * *\n{steps}").schedule == Schedule(cron="0 6 * * *")
    assert load(f"{HEAD}schedule: '@daily'\n{steps}").schedule == Schedule(cron="@daily")


def test_a_step_follows_the_one_before_it_unless_it_says_otherwise() -> None:
    pipeline = with_steps(
        "  - {step_id: a, ps_type: generic.noop}\n"
        "  - {step_id: b, ps_type: generic.noop}\n"
        "  - {step_id: c, ps_type: generic.noop, depends_on: []}\n"
        "  - {step_id: d, ps_type: generic.noop, depends_on: [a, c]}\n"
        "  - {step_id: e, ps_type: generic.noop}\n"
    )
    parents = {step.step_id: step.depends_on for step in pipeline.steps}
    assert parents == {"a": (), "b": ("a",), "c": (), "d": ("a", "c"), "e": ("d",)}


TEN_FAULTS = """\
pipeline_id: OpenAI
nane: Usage
provider: openai
domain: &d payg
schedule: 0 25 * * *
timeout_minutes: "sixty"
steps:
  - step_id: extract
    ps_type: api.extrct
  - step_id: load
    ps_type: api.extract
    depends_on: [extrct]
    config:
      source: "{bukket}"
      days: 91
      days: 5
  - step_id: load
    ps_type: generic.noop
    on_failure: contniue
    enabled: yes
"""


def test_a_file_with_a_dozen_faults_tells_them_all_each_at_its_place() -> None:
    name = "configs/genai/payg/openai.yml"
    assert faults(TEN_FAULTS, name) == [
        f"{name}:1:14 pipeline_id must match ^[a-z][a-z0-9_-]{{0,62}}$, not 'OpenAI'",
        (
            f"{name}:2:1 nane is not a known key (did you mean 'name'?); known: pipeline_id, name,"
            " description, provider, domain, version, schedule, timeout_minutes, variables,"
            " notifications, triggers, coverage, steps"
        ),
        f"{name}:4:9 the anchor &d is not allowed",
        f"{name}:5:11 schedule is no cron expression: the hour '25' must be *, or of 0 to 23",
        f"{name}:6:18 timeout_minutes must be a number, not a text",
        (
            f"{name}:9:14 step 'extract': ps_type 'api.extrct' is not a processor"
            " (did you mean 'api.extract'?)"
        ),
        f"{name}:12:18 step 'load': depends_on 'extrct' is not a step (did you mean 'extract'?)",
        (
            f"{name}:14:15 step 'load': config.source names the variable 'bukket', which does not"
            " exist; known: credential_id, end_date, org_dataset, org_slug, pipeline_id, project_id,"
            " provider, run_id, start_date"
        ),
        f"{name}:15:13 step 'load': config.days must be at most 90, not 91",
        f"{name}:16:7 the key 'days' is given twice (first in line 15)",
        f"{name}:17:14 step 'load': the step_id is used in line 10 already",
        (
            f"{name}:19:17 step 'load': on_failure must be one of stop, continue; not 'contniue'"
            " (did you mean 'continue'?)"
        ),
        f"{name}:20:14 step 'load': enabled must be true or false, not a text",
    ]


@pytest.mark.parametrize(
    ("steps", "fault"),
    [
        (
            "- {step_id: a, ps_type: generic.noop, depends_on: [a]}",
            "1:52 step 'a': depends_on names the step itself",
        ),
        (
            (
                "- {step_id: a, ps_type: generic.noop}\n"
                "- {step_id: b, ps_type: generic.noop, depends_on: [a, a]}"
            ),
            "2:55 step 'b': depends_on names 'a' twice",
        ),
        (
            (
                "- {step_id: a, ps_type: generic.noop, depends_on: [c]}\n"
                "- {step_id: b, ps_type: generic.noop}\n"
                "- {step_id: c, ps_type: generic.noop}"
            ),
            "1:51 step 'a': the steps wait for each other: a → b → c → a",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, depends_on: [b]}\n- {step_id: b, ps_type: generic.noop}",
            "1:51 step 'a': the steps wait for each other: a → b → a",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, depends_on: b}",
            "1:51 step 'a': depends_on must be a list, not a text: write [b]",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, depends_on: }",
            "1:51 step 'a': depends_on must be a list, not empty",
        ),
        (
            "- {step_id: 1a, ps_type: generic.noop}",
            "1:13 step '1a': step_id must match ^[a-z][a-z0-9_-]{0,62}$, not '1a'",
        ),
        ("- {ps_type: generic.noop}", "1:3 step 1: step_id is missing"),
        ("- {step_id: a}", "1:3 step 'a': ps_type is missing"),
        ("- hello", "1:3 step 1: must be a mapping, not a text"),
        (
            "- {step_id: a, ps_type: api.extract}",
            "1:3 step 'a': config.source is missing",
        ),
        (
            "- {step_id: a, ps_type: api.extract, config: {source: {days}}}",
            (
                "1:55 step 'a': config.source must be a text, not a mapping: a template must be"
                ' quoted: "{days}"'
            ),
        ),
        (
            "- {step_id: a, ps_type: api.extract, config: {source: 5}}",
            "1:55 step 'a': config.source must be a text, not a whole number: quote it",
        ),
        (
            "- {step_id: a, ps_type: api.extract, config: {source: s, mode: part}}",
            "1:64 step 'a': config.mode must be one of full, delta; not 'part'",
        ),
        (
            "- {step_id: a, ps_type: api.extract, config: {source: s, since: 2026-02-30}}",
            "1:65 step 'a': config.since must be a day like 2026-01-31",
        ),
        (
            "- {step_id: a, ps_type: api.extract, config: {source: s, options: ['{run_id']}}",
            (
                "1:68 step 'a': config.options[0] has a lone '{' in '{run_id': write {{ or }} for a"
                " brace, {name} for a variable"
            ),
        ),
        (
            "- {step_id: a, ps_type: generic.noop, config: {sleep: 1}}",
            "1:48 step 'a': config.sleep is not a known key; known: none",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, timeout_seconds: 0}",
            "1:56 step 'a': timeout_seconds must be at least 1, not 0",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, timeout_seconds: '540'}",
            "1:56 step 'a': timeout_seconds must be a number, not a text",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, timeout_seconds: 3601}",
            "1:56 step 'a': timeout_seconds 3601 is more than timeout_minutes 60 of the run",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, retry: {max_attempts: 0}}",
            "1:61 step 'a': retry.max_attempts must be at least 1, not 0",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, retry: {backoff_seconds: 1000}}",
            "1:46 step 'a': backoff_seconds 1000 is more than max_backoff_seconds 900",
        ),
        (
            "- {step_id: a, ps_type: generic.noop, timeout_seconds: '{days}'}",
            "1:56 step 'a': timeout_seconds must be a number, not a text",
        ),
    ],
)
def test_a_faulty_step_is_told_what_is_wrong(steps: str, fault: str) -> None:
    assert faults_of_steps(steps) == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[]", "f.yml:1:1 the file must be a mapping, not a list"),
        ("", "f.yml:1:1 the file is empty"),
        (HEAD + "steps: []", "f.yml:4:8 steps must not be empty"),
        (HEAD, "f.yml:1:1 steps is missing"),
        (HEAD + "steps: none", "f.yml:4:8 steps must be a list, not a text: write [none]"),
    ],
)
def test_a_file_that_is_no_pipeline_says_so(text: str, fault: str) -> None:
    assert faults(text)[-1] == fault


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("schedule: 5 * * *", "f.yml:4:11 schedule is no cron expression: '5 * * *' has 4 fields"),
        ("schedule: '@dayly'", "f.yml:4:11 schedule is no cron expression: '@dayly' is no shorth"),
        ("schedule: {timezone: UTC}", "f.yml:4:11 schedule.cron is missing"),
        (
            "schedule: {cron: '@daily', timezone: Europe/Berln}",
            (
                "f.yml:4:38 schedule.timezone 'Europe/Berln' is no IANA time zone"
                " (did you mean 'Europe/Berlin'?)"
            ),
        ),
        ("schedule: {cron: '@daily', timezone: Europe}", "f.yml:4:38 schedule.timezone 'Europe' "),
        ("schedule: {cron: '@daily', timezone: ../x}", "f.yml:4:38 schedule.timezone '../x' is no"),
        ("schedule: {cron: '@daily', overlap: on}", "f.yml:4:37 schedule.overlap must be one of"),
        ("version: 1.0", "f.yml:4:10 version must be a text, not a number: quote it"),
        ("timeout_minutes: 0.5", "f.yml:4:18 timeout_minutes must be at least 1, not 0.5"),
        (
            "variables: {Days: 1}",
            "f.yml:4:13 variables.Days is no valid key: it must match ^[a-z_]",
        ),
        ("variables: {run_id: 1}", "f.yml:4:13 variables.run_id is a variable of every run alrea"),
        ("variables: {credential_x: 1}", "f.yml:4:13 variables.credential_x must not begin with c"),
        ("variables: {a: 1, b: '{a}'}", "f.yml:4:22 variables.b names the variable 'a', which do"),
        ("notifications: [{on: [failing]}]", "f.yml:4:23 notifications[0].on[0] must be one of"),
        ("triggers: [{}]", "f.yml:4:12 triggers[0].event is missing"),
        ("coverage: {tables: [a]}", "f.yml:4:11 coverage.final_after_days is missing"),
        (
            "coverage: {tables: [a, b, a], final_after_days: 1}",
            "f.yml:4:11 coverage is not valid: tables: names one of them twice",
        ),
        (
            "coverage: {tables: [a], final_after_days: 1, first_day: 2026-02-30}",
            "f.yml:4:57 coverage.first_day",
        ),
    ],
)
def test_a_faulty_field_is_told_what_is_wrong(line: str, fault: str) -> None:
    [found] = faults(f"{HEAD}{line}\nsteps: [{{step_id: a, ps_type: generic.noop}}]")
    assert found.startswith(fault)


def test_two_hundred_steps_are_allowed_and_one_more_is_not() -> None:
    lines = [f"  - {{step_id: s{n}, ps_type: generic.noop}}\n" for n in range(201)]
    assert len(with_steps("".join(lines[:200])).steps) == 200
    assert faults_of_steps("".join(lines)) == ["1:3 steps has 201 entries, at most 200 are allowed"]


def test_more_faults_than_anybody_reads_are_cut() -> None:
    lines = [f"  - {{step_id: s{n}, ps_type: nope}}\n" for n in range(200)]
    found = faults_of_steps("".join(lines))
    assert len(found) == 101
    assert found[-1].endswith("and more from here on; mend the others first")


def test_the_address_is_the_last_three_parts_of_the_path() -> None:
    assert address_of("configs/cloud/aws/cost/billing.yml") == "aws/cost/billing"
    assert address_of("configs/genai/payg/openai.yml") == "genai/payg/openai"


def test_a_pipeline_needs_a_credential_when_a_step_that_runs_does() -> None:
    extract = "  - {step_id: a, ps_type: api.extract, config: {source: s}, enabled: %s}\n"
    noop = "  - {step_id: b, ps_type: generic.noop}\n"
    assert with_steps(extract % "true" + noop).needs_credential(PROCESSORS)
    assert not with_steps(extract % "false" + noop).needs_credential(PROCESSORS)


def test_a_plan_has_every_value_put_in_with_its_type() -> None:
    made = plan(load(WHOLE), {"folder": "focus"}, days=7)
    assert made.config_hash == sha256(WHOLE.encode()).hexdigest()
    assert (made.address, made.provider, made.timeout_minutes) == (
        "genai/payg/openai",
        "openai",
        90,
    )
    assert made.by_id["extract"].config == {
        "source": "exports-acme/focus/2026-01-01",
        "days": 7,
        "since": "2026-01-31",
        "options": {"{days}": "{days} of 7"},
    }
    assert made.by_id["tidy"].depends_on == ("extract",)


def test_a_plan_lists_a_step_after_all_it_waits_for() -> None:
    made = plan(
        with_steps(
            "  - {step_id: join, ps_type: generic.noop, depends_on: [left, right]}\n"
            "  - {step_id: right, ps_type: generic.noop, depends_on: []}\n"
            "  - {step_id: left, ps_type: generic.noop, depends_on: [right]}\n"
        )
    )
    assert [step.step_id for step in made.steps] == ["right", "left", "join"]


def test_a_value_that_does_not_fit_once_it_is_known_is_refused() -> None:
    pipeline = load(WHOLE)
    assert plan_faults(pipeline, {"folder": "x"}, days=91) == [
        "steps.extract.config.days must be at most 90, not 91"
    ]
    assert plan_faults(pipeline, {"folder": "x"}, days="7") == [
        "steps.extract.config.days must be a whole number, not a text"
    ]


def test_a_parameter_that_is_no_variable_is_refused_with_the_near_miss() -> None:
    assert plan_faults(load(WHOLE), {"folder": "x"}, day=7) == [
        (
            "parameters.day is not a variable of the pipeline (did you mean 'days'?);"
            " known: bucket, days"
        )
    ]


def test_metadata_that_the_credential_does_not_have_is_named() -> None:
    assert plan_faults(load(WHOLE), {"region": "eu"}) == [
        (
            "steps.extract.config.source needs 'folder' in the metadata of the credential,"
            " which has region"
        )
    ]


def test_what_a_request_sends_is_never_a_template() -> None:
    made = plan(load(WHOLE), {"folder": "{run_id}"}, bucket="{org_slug}${days}")
    assert made.by_id["extract"].config["source"] == "{org_slug}${days}/{run_id}/2026-01-01"


def test_metadata_cannot_take_the_place_of_the_credential_id() -> None:
    pipeline = with_steps(
        '  - {step_id: a, ps_type: api.extract, config: {source: "{credential_id}"}}'
    )
    assert plan(pipeline, {"id": "other"}).by_id["a"].config == {"source": "main"}


def test_a_step_that_does_not_run_needs_no_values() -> None:
    pipeline = with_steps(
        "  - step_id: a\n    ps_type: api.extract\n    enabled: false\n"
        '    config: {source: "{credential_bucket}"}'
    )
    assert plan(pipeline).by_id["a"].config == {}


@settings(max_examples=examples(200))
@given(st.binary(max_size=300))
def test_any_bytes_are_a_pipeline_or_a_config_error(raw: bytes) -> None:
    outcome(raw)


yaml_like = st.text("{}[]:,-&*!|>'\"# \n\tabc01", max_size=20)
raw_whole = WHOLE.encode()


@settings(max_examples=examples(400))
@given(
    st.integers(0, len(raw_whole)),
    st.integers(0, 40),
    st.binary(max_size=3) | yaml_like.map(str.encode),
)
def test_a_damaged_file_is_a_pipeline_or_a_config_error(at: int, cut: int, put: bytes) -> None:
    outcome(raw_whole[:at] + put + raw_whole[at + cut :])


json_like: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 600) | st.sampled_from(["a", "{x}", "@daily", "{"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "steps",
                    "step_id",
                    "ps_type",
                    "config",
                    "depends_on",
                    "retry",
                    "schedule",
                    "cron",
                    "timezone",
                    "variables",
                    "source",
                    "timeout_seconds",
                    "backoff_seconds",
                    "a",
                    "",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
steps_like = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "step_id": st.sampled_from(["a", "b", "c", None, 1]),
            "ps_type": st.sampled_from(["api.extract", "generic.noop", "x", []]),
            "depends_on": json_like | st.lists(st.sampled_from(["a", "b", "c"])),
            "config": json_like,
            "retry": json_like,
            "timeout_seconds": json_like,
        },
    )
    | json_like,
    max_size=4,
)


@settings(max_examples=examples(300))
@given(json_like | st.fixed_dictionaries({"steps": steps_like, "variables": json_like}))
def test_any_values_are_a_pipeline_or_a_config_error(value: Any) -> None:
    outcome(msgspec.json.encode(value))


@given(st.dictionaries(st.sampled_from(["days", "bucket", "other"]), json_like))
def test_any_parameters_make_a_plan_or_are_refused(parameters: dict[str, Any]) -> None:
    pipeline = load(WHOLE)
    refused: tuple[Fault, ...] = (Fault("", ""),)
    try:
        made = plan(pipeline, {"folder": "x"}, **parameters)
    except Invalid as invalid:
        refused = invalid.faults
    else:
        msgspec.convert(made.by_id["extract"].config, ExtractConfig)
    assert refused


def outcome(raw: bytes) -> None:
    """Loads `raw`, and lets nothing pass but a Pipeline or a ConfigError with its places."""
    faults: tuple[Fault, ...] = ()
    parents, steps = set(), set()
    try:
        pipeline = load_pipeline("f.yml", raw, PROCESSORS)
    except ConfigError as error:
        faults = error.faults
        steps = {"refused"}
    else:
        parents = {parent for step in pipeline.steps for parent in step.depends_on}
        steps = {step.step_id for step in pipeline.steps}
    assert steps
    assert parents <= steps
    for fault in faults:
        assert fault.where.startswith("f.yml:")
        assert fault.message
        assert "UNREAD" not in fault.message
