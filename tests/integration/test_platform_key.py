"""`pipelines platform-key`, as an operator types it before anything else."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from shared.accounts import Scope
from shared.accounts.postgres import PostgresAccounts
from shared.settings import ROOT
from tests.support.postgres import server
from tests.unit.test_settings import CLOUD


def pipelines(**settings: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PIPELINES_")}
    return subprocess.run(
        [sys.executable, "-m", "shared.cli", "platform-key", "ops"],
        cwd=ROOT,
        env={**environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.cloud
def test_the_first_key_is_made_in_the_database() -> None:
    database = server().database()
    dsn = server().dsn(database)
    made = pipelines(**{**CLOUD, "PIPELINES_ACCOUNTS": dsn})
    assert made.returncode == 0, made.stderr
    accounts = PostgresAccounts(dsn, {})
    key = accounts.authenticate(made.stdout.strip(), datetime.now(UTC))
    accounts.close()
    assert key is not None
    assert (key.org, key.name, list(key.scopes)) == (None, "ops", [Scope.ADMIN])
    server().drop(database)


@pytest.mark.cloud
def test_a_database_that_is_gone_is_told_without_its_password() -> None:
    made = pipelines(
        **{**CLOUD, "PIPELINES_ACCOUNTS": "host=127.0.0.1 port=1 user=e password=canary"}
    )
    assert made.returncode == 4, made.stderr
    assert "canary" not in made.stdout + made.stderr


def test_the_embedded_system_has_its_key_already() -> None:
    told = pipelines()
    assert told.returncode == 2
    assert "platform.key" in told.stderr
