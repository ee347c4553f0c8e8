"""`pipelines platform-key`: the first key of a system in the cloud, made in its database itself.

Every other command asks the API, which takes an operator's key: one must be there first.
"""

from __future__ import annotations

from shared.accounts import Scope
from shared.bootstrap import utc_now
from shared.bootstrap.cloud import open_accounts
from shared.cli import show
from shared.cli.stop import Code, Stop
from shared.settings import PLATFORM_KEY_FILE, read_settings


def platform_key(name: str) -> None:
    """Prints the key to stdout, this once. Raises ConfigError, Unavailable, Stop."""
    settings = read_settings()
    if settings.cloud is None:
        raise Stop(
            Code.BAD_INPUT,
            "PIPELINES_MODE is embedded, where the operator's key is made with the data folder",
            hint=f"it is in {settings.data / PLATFORM_KEY_FILE}, and commands on this machine use it",
        )
    accounts = open_accounts(settings, settings.cloud)
    try:
        key, text = accounts.create_key(None, name, [Scope.ADMIN], utc_now())
    finally:
        accounts.close()
    show.err().print(f"key {key.key_id} of the platform (admin); it is not shown again:")
    show.lines(text)
