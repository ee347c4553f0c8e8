"""What the environment says, read once and checked. No other module looks at the environment."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from shared.core.secret import Secret
from shared.errors import ConfigError, Fault
from shared.log import Level

ROOT = Path(__file__).resolve().parent.parent

KNOWN = {
    "PIPELINES_MODE": "embedded (the default): SQLite, DuckDB and a folder, in one process; "
    "cloud: Firestore, Pub/Sub, BigQuery, Postgres, Cloud KMS and Cloud Storage",
    "PIPELINES_DATA": "the folder of the embedded backends (default .pipelines); in the cloud only "
    "for the files of a running load (default: in the folder for temporary files)",
    "PIPELINES_CONFIGS": "the folder of the pipelines (default: the configs of this release)",
    "PIPELINES_OBJECTS": "the folder whose subfolder ORG is what `file:` sources of ORG see "
    "(default: objects in the data folder)",
    "PIPELINES_PROJECT": "what `{project_id}` stands for in a pipeline (default local); in the cloud "
    "the project that everything is in",
    "PIPELINES_ENVIRONMENT": "the suffix of every dataset: prod, test, dev … (default dev)",
    "PIPELINES_STEP_THREADS": "how many steps run at a time in one process (default 8)",
    "PIPELINES_MEMORY_MB": "memory DuckDB may use, in MB (default 185: a process of at most 350 MiB)",
    "PIPELINES_REQUESTS_PER_MINUTE": "requests that one process of the API takes with one key "
    "(default 12000)",
    "PIPELINES_FAILED_KEYS_PER_MINUTE": "requests with keys that are not valid that one process of the "
    "API takes from one address (default 60)",
    "PIPELINES_LOG": "debug, info, warning or error (default warning embedded, else info)",
    "PIPELINES_LOCATION": "cloud: where datasets are created (EU, US, europe-west1 …)",
    "PIPELINES_ACCOUNTS": "cloud: the DSN of Postgres, through its transaction pooler; a secret",
    "PIPELINES_KMS_KEY": "cloud: the key that wraps data keys "
    "(projects/P/locations/L/keyRings/R/cryptoKeys/K)",
    "PIPELINES_TASKS_QUEUE": "cloud: the queue of delayed messages (projects/P/locations/L/queues/Q)",
    "PIPELINES_TASKS_ACCOUNT": "cloud: the email of the service account that the queue publishes as",
    "PIPELINES_PUSH_ACCOUNT": "cloud: the email of the service account whose token comes with every push "
    "and tick; not needed, and nothing is asked for, where PUBSUB_EMULATOR_HOST is set",
    "PIPELINES_PUSH_AUDIENCE": "cloud: the audience of those tokens (default: the URL of the function)",
    "PIPELINES_FIRESTORE": "cloud: the Firestore database (default (default))",
    "PIPELINES_LONG_STEPS_JOB": "cloud: the Cloud Run job (projects/P/locations/L/jobs/J) for steps "
    "that may take more than 540 s (default: none; they run in place, and end with their request)",
    "PIPELINES_STAGING_BUCKET": "cloud: the bucket through which large loads go (default: none; "
    "every file is sent to BigQuery itself)",
    "PIPELINES_MAX_GB_BILLED": "cloud: what one query may read, in GB (default 100)",
    "PIPELINES_URL": "for the command line: the API (default http://127.0.0.1:8001)",
    "PIPELINES_API_KEY": "for the command line: the API key",
    "PIPELINES_ORG": "for the command line: the organization where --org is not given",
}
PLATFORM_KEY_FILE = "platform.key"  # in the data folder: for the command line of this machine
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


# Read beside our own, as Google's clients do: HOST:PORT, or a URL for BigQuery and Cloud Storage.
# Tasks, KMS and Cloud Run have no name that everybody uses.
EMULATORS = {
    "firestore": "FIRESTORE_EMULATOR_HOST",
    "pubsub": "PUBSUB_EMULATOR_HOST",
    "tasks": "CLOUD_TASKS_EMULATOR_HOST",
    "bigquery": "BIGQUERY_EMULATOR_HOST",
    "storage": "STORAGE_EMULATOR_HOST",
    "kms": "CLOUD_KMS_EMULATOR_HOST",
    "jobs": "CLOUD_RUN_EMULATOR_HOST",
}
# Of the stores that sources are in, as HOST:PORT.
SOURCES = {
    "gs": EMULATORS["storage"],
    "s3": "S3_EMULATOR_HOST",
    "az": "BLOB_EMULATOR_HOST",
    "oci": "OCI_EMULATOR_HOST",
}
_KMS_KEY = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+")
_QUEUE = re.compile(r"projects/[^/]+/locations/[^/]+/queues/[^/]+")
_JOB = re.compile(r"projects/[^/]+/locations/[^/]+/jobs/[^/]+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True, kw_only=True)
class Emulators:
    """Where the emulators are; None is Google's own service."""

    firestore: str | None = None
    pubsub: str | None = None
    tasks: str | None = None
    bigquery: str | None = None
    storage: str | None = None
    kms: str | None = None
    jobs: str | None = None


@dataclass(frozen=True, kw_only=True)
class SourceHosts:
    """Where the emulators of object stores are, by the scheme of a source; None is the real one."""

    gs: str | None = None
    s3: str | None = None
    az: str | None = None
    oci: str | None = None


@dataclass(frozen=True, kw_only=True)
class CloudSettings:
    """What only the cloud mode needs. `accounts` is the DSN of Postgres, with its password.

    `push_account` is None only beside the emulator of Pub/Sub, which signs nothing.
    """

    location: str
    accounts: Secret
    kms_key: str
    tasks_queue: str
    tasks_account: str
    push_account: str | None = None
    push_audience: str | None = None
    firestore: str = "(default)"
    long_steps_job: str | None = None
    staging_bucket: str | None = None
    max_bytes_billed: int = 100 * 10**9
    emulators: Emulators = Emulators()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Typed settings. `configs` and `data` are absolute. `cloud` is None in the embedded mode."""

    cloud: CloudSettings | None = None
    data: Path
    configs: Path
    objects: Path
    project_id: str = "local"
    environment: str = "dev"
    step_threads: int = 8
    memory_mb: int = 185
    requests_per_minute: int = 12_000
    failed_keys_per_minute: int = 60
    log_level: Level = Level.WARNING
    sources: SourceHosts = SourceHosts()


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
    if mode not in ("embedded", "cloud"):
        faults.append(Fault("PIPELINES_MODE", f"{mode!r} is not a mode (known: embedded, cloud)"))
    in_cloud = mode == "cloud"
    environment = env.get("PIPELINES_ENVIRONMENT", "dev")
    if not (environment.isascii() and environment.isalnum() and environment.islower()):
        faults.append(
            Fault(
                "PIPELINES_ENVIRONMENT", f"{environment!r} is not of lower-case letters and digits"
            )
        )
    level = env.get("PIPELINES_LOG", "info" if in_cloud else "warning").upper()
    if level not in Level.__members__:
        faults.append(Fault("PIPELINES_LOG", f"{level.lower()!r} is not a level"))
        level = "WARNING"
    scratch = Path(tempfile.gettempdir(), "pipelines") if in_cloud else ".pipelines"
    data = Path(env.get("PIPELINES_DATA", scratch)).absolute()
    gigabytes = number("PIPELINES_MAX_GB_BILLED", 100, 1, 1_000_000)
    settings = Settings(
        cloud=_cloud(env, gigabytes, faults) if in_cloud else None,
        data=data,
        configs=Path(env.get("PIPELINES_CONFIGS", ROOT / "configs")).absolute(),
        objects=Path(env.get("PIPELINES_OBJECTS", data / "objects")).absolute(),
        project_id=env.get("PIPELINES_PROJECT", "local"),
        environment=environment,
        step_threads=number("PIPELINES_STEP_THREADS", 8, 1, 256),
        memory_mb=number("PIPELINES_MEMORY_MB", 185, 64, 1_000_000),
        requests_per_minute=number("PIPELINES_REQUESTS_PER_MINUTE", 12_000, 1, 1_000_000),
        failed_keys_per_minute=number("PIPELINES_FAILED_KEYS_PER_MINUTE", 60, 1, 1_000_000),
        log_level=Level[level],
        sources=SourceHosts(**{scheme: env.get(name) or None for scheme, name in SOURCES.items()}),
    )
    if faults:
        raise ConfigError(faults)
    return settings


def _cloud(env: Mapping[str, str], gigabytes: int, faults: list[Fault]) -> CloudSettings:
    """Adds what is missing or malformed to `faults`; a value of a secret is never repeated."""

    def needed(name: str, form: re.Pattern[str] | None = None) -> str:
        text = env.get(name, "")
        if not text:
            faults.append(Fault(name, f"is needed in the cloud mode ({KNOWN[name]})"))
        elif form is not None and not form.fullmatch(text):
            faults.append(Fault(name, f"{text!r} is not what it should be ({KNOWN[name]})"))
        return text

    needed("PIPELINES_PROJECT")
    if env.get("PIPELINES_LONG_STEPS_JOB"):
        needed("PIPELINES_LONG_STEPS_JOB", _JOB)
    if env.get("PIPELINES_PUSH_ACCOUNT") or not env.get(EMULATORS["pubsub"]):
        needed("PIPELINES_PUSH_ACCOUNT", _EMAIL)
    return CloudSettings(
        location=needed("PIPELINES_LOCATION"),
        accounts=Secret(needed("PIPELINES_ACCOUNTS")),
        kms_key=needed("PIPELINES_KMS_KEY", _KMS_KEY),
        tasks_queue=needed("PIPELINES_TASKS_QUEUE", _QUEUE),
        tasks_account=needed("PIPELINES_TASKS_ACCOUNT", _EMAIL),
        push_account=env.get("PIPELINES_PUSH_ACCOUNT") or None,
        push_audience=env.get("PIPELINES_PUSH_AUDIENCE") or None,
        firestore=env.get("PIPELINES_FIRESTORE", "(default)"),
        long_steps_job=env.get("PIPELINES_LONG_STEPS_JOB") or None,
        staging_bucket=env.get("PIPELINES_STAGING_BUCKET") or None,
        max_bytes_billed=gigabytes * 10**9,
        emulators=Emulators(**{key: env.get(name) or None for key, name in EMULATORS.items()}),
    )
