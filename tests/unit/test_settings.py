"""What the environment may say, and what is told when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings import KNOWN, ROOT, Emulators, read_settings

CLOUD = {
    "PIPELINES_MODE": "cloud",
    "PIPELINES_PROJECT": "acme-costs",
    "PIPELINES_LOCATION": "EU",
    "PIPELINES_ACCOUNTS": "postgresql://engine:canary@pooler:6543/postgres",
    "PIPELINES_KMS_KEY": "projects/acme-costs/locations/eu/keyRings/vault/cryptoKeys/data-keys",
    "PIPELINES_TASKS_QUEUE": "projects/acme-costs/locations/europe-west1/queues/later",
    "PIPELINES_TASKS_ACCOUNT": "tasks@acme-costs.iam.gserviceaccount.com",
    "PIPELINES_PUSH_ACCOUNT": "pusher@acme-costs.iam.gserviceaccount.com",
}


def test_an_empty_environment_is_the_embedded_system() -> None:
    settings = read_settings({})
    assert settings.cloud is None
    assert settings.data == Path(".pipelines").absolute()


def test_the_cloud_mode_is_told_whole() -> None:
    settings = read_settings({**CLOUD, "PIPELINES_MAX_GB_BILLED": "5"})
    assert settings.cloud is not None
    assert settings.cloud.max_bytes_billed == 5_000_000_000
    assert settings.cloud.staging_bucket is None
    assert settings.cloud.emulators == Emulators()


def test_everything_that_the_cloud_lacks_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        read_settings({"PIPELINES_MODE": "cloud"})
    assert {fault.where for fault in raised.value.faults} == CLOUD.keys() - {"PIPELINES_MODE"}


@pytest.mark.parametrize(
    "name",
    [
        "PIPELINES_KMS_KEY",
        "PIPELINES_TASKS_QUEUE",
        "PIPELINES_TASKS_ACCOUNT",
        "PIPELINES_PUSH_ACCOUNT",
        "PIPELINES_LONG_STEPS_JOB",
    ],
)
def test_a_malformed_name_is_told_with_its_form(name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_settings({**CLOUD, name: "key-1"})
    (fault,) = raised.value.faults
    assert fault.where == name
    assert "'key-1'" in fault.message


def test_the_dsn_of_the_accounts_is_never_shown() -> None:
    settings = read_settings(CLOUD)
    assert "canary" not in repr(settings)
    with pytest.raises(ConfigError) as raised:
        read_settings({**CLOUD, "PIPELINES_LOCATION": ""})
    assert "canary" not in str(raised.value)


def test_emulators_are_found_by_the_names_that_googles_clients_use() -> None:
    settings = read_settings({**CLOUD, "FIRESTORE_EMULATOR_HOST": "127.0.0.1:1"})
    assert settings.cloud is not None
    assert settings.cloud.emulators == Emulators(firestore="127.0.0.1:1")


def test_only_beside_the_emulator_of_pubsub_may_anybody_push() -> None:
    without = {name: text for name, text in CLOUD.items() if name != "PIPELINES_PUSH_ACCOUNT"}
    for beside in ({}, {"FIRESTORE_EMULATOR_HOST": "127.0.0.1:1"}, {"PUBSUB_EMULATOR_HOST": ""}):
        with pytest.raises(ConfigError, match="PIPELINES_PUSH_ACCOUNT is needed"):
            read_settings({**without, **beside})
    settings = read_settings({**without, "PUBSUB_EMULATOR_HOST": "127.0.0.1:1"})
    assert settings.cloud is not None
    assert settings.cloud.push_account is None


def test_the_limits_of_the_api_may_be_set() -> None:
    settings = read_settings(
        {"PIPELINES_REQUESTS_PER_MINUTE": "10", "PIPELINES_FAILED_KEYS_PER_MINUTE": "2"}
    )
    assert (settings.requests_per_minute, settings.failed_keys_per_minute) == (10, 2)
    with pytest.raises(
        ConfigError, match="PIPELINES_REQUESTS_PER_MINUTE '0' is not a whole number"
    ):
        read_settings({"PIPELINES_REQUESTS_PER_MINUTE": "0"})


def test_every_setting_of_the_cloud_mode_is_in_the_book_of_operations() -> None:
    book = (ROOT / "docs" / "operations.md").read_text()
    cloud = [name for name, said in KNOWN.items() if said.startswith("cloud:")]
    assert [name for name in cloud if f"`{name}`" not in book] == []


def test_an_unknown_setting_or_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="PIPELINES_DATE is not a setting"):
        read_settings({"PIPELINES_DATE": "x"})
    with pytest.raises(ConfigError, match="'clod' is not a mode"):
        read_settings({"PIPELINES_MODE": "clod"})
