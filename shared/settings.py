"""What the environment says, read once and checked. No other module looks at the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import ConfigError, Fault
from shared.log import Level

ROOT = Path(__file__).resolve().parent.parent

KNOWN = {
    "PIPELINES_MODE": "embedded (the default): SQLite, DuckDB and a folder, in one process",
    "PIPELINES_DATA": "the folder of the embedded backends (default .pipelines)",
    "PIPELINES_CONFIGS": "the folder of the pipelines (default: the configs of this release)",
    "PIPELINES_OBJECTS": "the folder whose subfolder ORG is what `file:` sources of ORG see "
    "(default: objects in the data folder)",
    "PIPELINES_PROJECT": "what `{project_id}` stands for in a pipeline (default local)",
    "PIPELINES_ENVIRONMENT": "the suffix of every dataset: prod, test, dev … (default dev)",
    "PIPELINES_STEP_THREADS": "how many steps run at a time in one process (default 8)",
    "PIPELINES_MEMORY_MB": "memory DuckDB may use, in MB (default 185: a process of at most 350 MiB)",
    "PIPELINES_LOG": "debug, info, warning or error (default warning embedded, else info)",
    "PIPELINES_URL": "for the command line: the API (default http://127.0.0.1:8001)",
    "PIPELINES_API_KEY": "for the command line: the API key",
    "PIPELINES_ORG": "for the command line: the organization where --org is not given",
}
PLATFORM_KEY_FILE = "platform.key"  # in the data folder: for the command line of this machine
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Typed settings. `configs` and `data` are absolute."""

    mode: str = "embedded"
    data: Path
    configs: Path
    objects: Path
    project_id: str = "local"
    environment: str = "dev"
    step_threads: int = 8
    memory_mb: int = 185
    log_level: Level = Level.WARNING


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """What the command line knows: where the API is, and who asks. None is what it was not told.

    `key_file` is read only for an API on this machine: the platform's key goes nowhere else.
    `plain`: the person wants no colour (https://no-color.org).
    """

    url: str
    api_key: str | None
    key_file: Path | None
    org: str | None
    plain: bool


def read_client_settings(environ: Mapping[str, str] | None = None) -> ClientSettings:
    """The settings of the command line. Raises ConfigError with all faults."""
    env = os.environ if environ is None else environ
    faults = _unknown(env)
    url = env.get("PIPELINES_URL", "http://127.0.0.1:8001").rstrip("/")
    host = None
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:
        pass
    if host is None:
        faults.append(Fault("PIPELINES_URL", f"{url!r} is no URL of an API (http://HOST:PORT)"))
    if faults:
        raise ConfigError(faults)
    data = Path(env.get("PIPELINES_DATA", ".pipelines")).absolute()
    return ClientSettings(
        url=url,
        api_key=env.get("PIPELINES_API_KEY") or None,
        key_file=data / PLATFORM_KEY_FILE if host in _LOOPBACK else None,
        org=env.get("PIPELINES_ORG") or None,
        plain=bool(env.get("NO_COLOR")),
    )


def _unknown(env: Mapping[str, str]) -> list[Fault]:
    return [
        Fault(name, f"is not a setting (known: {', '.join(KNOWN)})")
        for name in env
        if name.startswith("PIPELINES_") and name not in KNOWN
    ]


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of `environ` (default: the process's). Raises ConfigError with all faults."""
    env = os.environ if environ is None else environ
    faults = _unknown(env)

    def number(name: str, default: int, least: int, most: int) -> int:
        text = env.get(name, str(default))
        if text.isascii() and text.isdigit() and least <= int(text) <= most:
            return int(text)
        faults.append(Fault(name, f"{text!r} is not a whole number from {least} to {most}"))
        return default

    mode = env.get("PIPELINES_MODE", "embedded")
    if mode != "embedded":
        faults.append(Fault("PIPELINES_MODE", f"{mode!r} is not a mode (known: embedded)"))
    environment = env.get("PIPELINES_ENVIRONMENT", "dev")
    if not (environment.isascii() and environment.isalnum() and environment.islower()):
        faults.append(
            Fault(
                "PIPELINES_ENVIRONMENT", f"{environment!r} is not of lower-case letters and digits"
            )
        )
    level = env.get("PIPELINES_LOG", "warning").upper()
    if level not in Level.__members__:
        faults.append(Fault("PIPELINES_LOG", f"{level.lower()!r} is not a level"))
        level = "WARNING"
    data = Path(env.get("PIPELINES_DATA", ".pipelines")).absolute()
    settings = Settings(
        mode=mode,
        data=data,
        configs=Path(env.get("PIPELINES_CONFIGS", ROOT / "configs")).absolute(),
        objects=Path(env.get("PIPELINES_OBJECTS", data / "objects")).absolute(),
        project_id=env.get("PIPELINES_PROJECT", "local"),
        environment=environment,
        step_threads=number("PIPELINES_STEP_THREADS", 8, 1, 256),
        memory_mb=number("PIPELINES_MEMORY_MB", 185, 64, 1_000_000),
        log_level=Level[level],
    )
    if faults:
        raise ConfigError(faults)
    return settings
