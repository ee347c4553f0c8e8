"""What `terraform/` declares is what the code needs: no function, topic, setting or right is forgotten.

The plan is made by the real terraform, with a provider that knows its schema only. What Google's API
alone would refuse is not seen here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import main
from shared.core.message import Topic
from shared.settings import EMULATORS, KNOWN, ROOT, read_settings
from tests.support.terraform import SCHEMAS, needed, offline, planned, terraform

Plan = dict[str, list[dict[str, Any]]]

# Which permission each role brings of those that the code asks for (cloud.google.com/iam/docs/roles-permissions).
ROLES = {
    "roles/bigquery.dataEditor": {"datasets.create", "tables.write", "tables.read", "routines.use"},
    "roles/bigquery.dataViewer": {"tables.read"},
    "roles/bigquery.jobUser": {"jobs.create"},
    "roles/cloudkms.cryptoKeyDecrypter": {"decrypt"},
    "roles/cloudkms.cryptoKeyEncrypterDecrypter": {"encrypt", "decrypt"},
    "roles/cloudtasks.enqueuer": {"tasks.create"},
    "roles/datastore.user": {"documents"},
    "roles/iam.serviceAccountUser": {"act as tasks"},
    "roles/run.jobsExecutorWithOverrides": {"jobs.run"},
    "roles/secretmanager.secretAccessor": {"accounts"},
    "roles/storage.objectUser": {"staging"},
}

# What the code of each asks for. The API starts, cancels and resumes runs, which may wait (a task), seals
# credentials, sends dead letters again, and answers from the warehouse.
NEEDS: Mapping[str, set[str]] = {
    "api": {
        "publish completions",
        "publish run-events",
        "publish starts",
        "publish steps",
        "accounts",
        "act as tasks",
        "decrypt",
        "documents",
        "encrypt",
        "jobs.create",
        "tables.read",
        "tasks.create",
    },
    "step_worker": {
        "publish completions",
        "accounts",
        "datasets.create",
        "decrypt",
        "documents",
        "jobs.create",
        "jobs.run",
        "routines.use",
        "staging",
        "tables.read",
        "tables.write",
    },
    "step_job": {
        "publish completions",
        "accounts",
        "datasets.create",
        "decrypt",
        "documents",
        "jobs.create",
        "routines.use",
        "staging",
        "tables.read",
        "tables.write",
    },
    "coordinator": {
        "publish run-events",
        "publish steps",
        "accounts",
        "act as tasks",
        "documents",
        "tasks.create",
    },
    # Makes runs that wait, which may be let go or end at once: it visits as the coordinator does.
    "event_trigger": {
        "publish run-events",
        "publish steps",
        "accounts",
        "act as tasks",
        "documents",
        "tasks.create",
    },
    "scheduler": {"publish completions", "publish starts", "accounts", "documents"},
    "dead_letter": {"accounts", "documents"},
    "tasks": {"publish completions", "publish starts", "publish steps"},
    "pusher": set(),
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    needed()
    return planned(tmp_path_factory.mktemp("plan"))


def test_the_files_are_formatted() -> None:
    needed()
    done = terraform("fmt", "-check", "-recursive", "-diff", "terraform")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("schema", SCHEMAS)
def test_every_promise_of_the_plan_holds(tmp_path: Path, schema: str) -> None:
    needed()
    done = offline(tmp_path, schema, "validate -no-color", "test -no-color")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_push_that_nobody_authenticates_is_found(tmp_path: Path) -> None:
    needed()
    offline(tmp_path, SCHEMAS[-1], "validate -no-color")
    messages = tmp_path / "terraform" / "messages.tf"
    text = messages.read_text()
    pusher = 'google_service_account.this["pusher"].email'
    assert text.count(pusher) == 2
    messages.write_text(text.replace(pusher, '"nobody@example.com"'))

    done = offline(tmp_path, SCHEMAS[-1], "test -no-color")

    assert done.returncode != 0
    assert "a push without the pusher's token" in done.stdout + done.stderr


def test_every_function_has_a_service(plan: Plan) -> None:
    services = {service["_index"]: service for service in plan["google_cloud_run_v2_service"]}

    assert set(services) == set(main.FUNCTIONS)
    for name, service in services.items():
        assert _environ(service)["FUNCTION_TARGET"] == name


def test_every_topic_that_the_code_publishes_to_is_there(plan: Plan) -> None:
    names = {topic["name"] for topic in plan["google_pubsub_topic"]}

    assert names == {f"pipelines-prod-{topic}" for topic in Topic}


def test_the_settings_are_those_that_the_code_reads(plan: Plan) -> None:
    containers = [*plan["google_cloud_run_v2_service"], *plan["google_cloud_run_v2_job"]]

    for made in containers:
        environ = {
            name: text for name, text in _environ(made).items() if name.startswith("PIPELINES_")
        }
        assert set(environ) <= set(KNOWN), "a setting that nobody reads"
        known = {name: text for name, text in environ.items() if text is not None}
        settings = read_settings({**known, **_known_after_the_plan(environ)})
        assert settings.cloud is not None
        assert settings.cloud.long_steps_job, "a long step would end with its request"
        assert settings.cloud.staging_bucket, "a large load would go through a request"
        assert not set(environ) & set(EMULATORS.values())


def test_the_long_steps_job_is_the_one_that_the_settings_name(plan: Plan) -> None:
    (job,) = plan["google_cloud_run_v2_job"]
    named = _environ(job)["PIPELINES_LONG_STEPS_JOB"]

    assert named == f"projects/a-project/locations/{job['location']}/jobs/{job['name']}"
    assert job["template"][0]["template"][0]["max_retries"] == 0, "the engine counts attempts"
    (container,) = job["template"][0]["template"][0]["containers"]
    assert container["command"] == ["python", "-m", "functions.step_job"]


def test_firestore_gets_the_indexes_that_the_queries_want(plan: Plan) -> None:
    wanted = json.loads((ROOT / "configs/system/firestore.indexes.json").read_text())

    assert {
        (
            index["collection"],
            tuple((field["field_path"], field["order"]) for field in index["fields"]),
        )
        for index in plan["google_firestore_index"]
    } == {
        (
            index["collectionGroup"],
            tuple((field["fieldPath"], field["order"]) for field in index["fields"]),
        )
        for index in wanted["indexes"]
    }
    assert {
        (
            field["collection"],
            field["field"],
            bool(field["ttl_config"]),
            tuple(one["order"] for one in field["index_config"][0]["indexes"]),
        )
        for field in plan["google_firestore_field"]
    } == {
        (
            field["collectionGroup"],
            field["fieldPath"],
            field.get("ttl", False),
            tuple(one["order"] for one in field["indexes"]),
        )
        for field in wanted["fieldOverrides"]
    }


def test_every_right_that_the_code_needs_is_granted_and_no_other(plan: Plan) -> None:
    granted: dict[str, set[str]] = {name: set() for name in NEEDS}
    for kind, members in plan.items():
        if not kind.endswith("_iam_member") or "service_iam" in kind:
            continue
        for member in members:
            account = _account(kind, member)
            if account is None:
                continue
            role = member["role"]
            brings = (
                {f"publish {member['_index'].split()[1]}"} if "publisher" in role else ROLES[role]
            )
            assert brings & NEEDS[account], f"{account} does not need {role}"
            granted[account] |= brings

    assert granted == NEEDS


def test_who_is_told_of_an_alert_finds_it_in_the_operations() -> None:
    operations = (ROOT / "docs/operations.md").read_text()
    source = (ROOT / "terraform/monitoring.tf").read_text()
    alerts = _keys_of(source, "alerts") + [f"no {name}" for name in _keys_of(source, "silences")]

    assert len(alerts) == 7
    for alert in alerts:
        assert f"### Alert: {alert}\n" in operations


def _environ(made: dict[str, Any]) -> dict[str, str | None]:
    template = made["template"][0]
    (container,) = template.get("containers") or template["template"][0]["containers"]
    return {env["name"]: env.get("value") for env in container["env"]}


def _known_after_the_plan(environ: Mapping[str, str | None]) -> dict[str, str]:
    place = "projects/a-project/locations/europe-west1"
    given = {
        "PIPELINES_ACCOUNTS": "postgresql://host/db",  # from its secret
        "PIPELINES_KMS_KEY": f"{place}/keyRings/pipelines-prod/cryptoKeys/data-keys",
        "PIPELINES_PUSH_ACCOUNT": "pusher@a-project.iam.gserviceaccount.com",
        "PIPELINES_TASKS_ACCOUNT": "tasks@a-project.iam.gserviceaccount.com",
        "PIPELINES_TASKS_QUEUE": f"{place}/queues/pipelines-prod-later",
    }
    assert {name for name, text in environ.items() if text is None} == set(given)
    return given


def _account(kind: str, member: dict[str, Any]) -> str | None:
    """Whose right it is; None: that of Google's own agent."""
    if kind == "google_cloud_run_v2_job_iam_member":
        return "step_worker"
    if kind == "google_service_account_iam_member" and member["role"].endswith("TokenCreator"):
        return None
    if member["_index"] is None or member["_index"] in {"starts", "steps", "completions"}:
        return None
    return str(member["_index"]).split()[0]


def _keys_of(source: str, table: str) -> list[str]:
    body = source.split(f"  {table} = {{\n", 1)[1].split("\n  }\n", 1)[0]
    return [line.split('"')[1] for line in body.splitlines() if line.startswith('    "')]
