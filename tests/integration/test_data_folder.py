"""The data folder: whole or not at all, and nothing left open behind an error."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from shared.accounts import ReservationStatus, Reserved, Spent
from shared.bootstrap.embedded import open_embedded
from shared.engine.tick import tick
from shared.errors import ConfigError, Unavailable
from shared.settings import PLATFORM_KEY_FILE
from tests.support.system import EmbeddedSystem


def test_an_opening_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    with EmbeddedSystem(tmp_path) as system:
        settings = system.settings
    database = settings.data / "state.db"
    kept = database.read_bytes()
    database.write_bytes(b"not a database at all, but long enough to be one" * 100)
    with pytest.raises(Unavailable, match=r"state\.db"):
        open_embedded(settings)
    database.write_bytes(kept)
    open_embedded(settings).close()  # the folder's lock was given back
    (settings.configs / "system" / "plans.yml").write_text("starter: {}")
    with pytest.raises(ConfigError, match=r"plans\.yml"):
        open_embedded(settings)


def test_the_platform_key_is_whole_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    with EmbeddedSystem(tmp_path) as system:
        path = system.settings.data / PLATFORM_KEY_FILE
        assert path.stat().st_mode & 0o777 == 0o600
        assert system.call("GET", "/admin/orgs", key=path.read_text()).status == 200
        before = path.read_text()
        system.restart()
        assert path.read_text() == before


def test_a_tick_deletes_the_reservations_of_runs_that_are_long_gone(tmp_path: Path) -> None:
    with EmbeddedSystem(tmp_path) as system:
        system.organization("acme")
        accounts, now = system.app.accounts, system.app.now()
        for run_id, days in (("gone", 401), ("kept", 399)):
            at = now - timedelta(days=days)
            accounts.reserve(run_id, "acme", at, at + timedelta(hours=1))
            accounts.settle(run_id, "acme", at, succeeded=True, our_fault=False)
        tick(system.app)
        until = now + timedelta(hours=1)
        assert accounts.reserve("gone", "acme", now, until) == Reserved(until)
        assert accounts.reserve("kept", "acme", now, until) == Spent(ReservationStatus.SETTLED)
