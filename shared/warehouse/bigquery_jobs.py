"""Jobs of BigQuery, and its other calls: nothing happens twice when an answer is lost.

A job's id is made of who asks, the statement and how often it was sent. Sent again after silence, BigQuery
refuses the id that it knows (409), and the job is asked what became of it; only a job that failed is
followed by one with the next id. Everything is tried a bounded number of times, by the `reason` that
BigQuery gives and never by its words.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from shared.errors import StepError, Stopped, Terminal, Transient
from shared.warehouse import Value

T = TypeVar("T")

TRIES = 5  # of a call that is not answered, or is told to come later
RESUBMISSIONS = 8  # of a job that ended for a reason that passes
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
TIMEOUT_SECONDS = 20.0  # for an answer
_UPLOAD_TIMEOUT = 120.0
_FIRST_LOOK, _LAST_LOOK = 0.05, 2.0  # seconds between two looks at a job that runs
_CANCEL_LOOKS = 10

# https://cloud.google.com/bigquery/docs/error-messages
_PASSING = frozenset(
    {
        "backendError",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "quotaExceeded",
        "rateLimitExceeded",
        "tableUnavailable",
    }
)
# BigQuery calls a transaction that another one was in the way of an invalid query, and says so in words
# only (its answer is in confluentinc/kafka-connect-bigquery, issue 279); the same goes for too many
# statements queued on a table.
IN_THE_WAY = frozenset({"invalidQuery", "resourcesExceeded"})
_ADVICE = {
    "accessDenied": "grant the service account bigquery.jobUser on the project and "
    "bigquery.dataEditor on the dataset",
    "billingNotEnabled": "enable billing on the project",
    "bytesBilledLimitExceeded": "it would read more than maximum_bytes_billed: ask for less, or "
    "raise the limit",
    "notFound": "the table, dataset or object that it names is not there",
}
_NO_LABEL = re.compile(r"[^a-z0-9_-]")
_NO_ID = re.compile(r"[^A-Za-z0-9_-]")


class Work:
    """What somebody does in BigQuery: `name` begins the ids of its jobs, and it can be stopped."""

    def __init__(
        self, name: str, labels: Mapping[str, str], check: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.labels = {key: _NO_LABEL.sub("_", value.lower())[:63] for key, value in labels.items()}
        self._check = check
        self._stop = threading.Event()
        self._beside: list[Callable[[], None]] = []

    def stops(self, beside: Callable[[], None]) -> None:
        """An interrupt stops this, too."""
        self._beside.append(beside)

    def check(self) -> None:
        """Raises Stopped when the work was taken away, or what the caller's own check raises."""
        if self._stop.is_set():
            raise Stopped("the load was interrupted")
        self._check()

    def interrupt(self) -> None:
        """Somebody waits for a job, and cancels it when it looks the next time."""
        self._stop.set()
        for stop in self._beside:
            stop()

    def job_id(self, statement: str, again: int) -> str:
        return _NO_ID.sub("_", f"{self.name}-{statement}-{again}")[-1024:]


class Job(NamedTuple):
    """A job that ended well: its id, and the client's object of it."""

    id: str
    job: Any


class Jobs:
    """The client of one project, opened at the first use, by whichever thread comes first.

    `emulator` is the URL of a server in Google's place.
    """

    def __init__(
        self,
        project: str,
        *,
        location: str,
        maximum_bytes_billed: int,
        sleep: Callable[[float], None],
        random: Callable[[], float],
        timeout_seconds: float = TIMEOUT_SECONDS,
        emulator: str | None = None,
    ) -> None:
        self.project = project
        self.location = location
        self.options = {"retry": None, "timeout": timeout_seconds}  # of every call: tries are ours
        self._maximum_bytes_billed = maximum_bytes_billed
        self._sleep = sleep
        self._random = random
        self._emulator = emulator
        self._guard = threading.Lock()
        self._opened: Any = None
        self._closed = False

    # -- calls

    def ask(self, what: str, call: Callable[[Any], T], *known: type[Exception]) -> T:
        """The answer of a call that may be made twice. What is `known` is raised as it came.

        Raises Transient when it stays without an answer, Terminal when it is refused.
        """
        client = self._client()
        for tried in range(1, TRIES + 1):
            try:
                return call(client)
            except known:
                raise
            except self._errors as error:
                if not self._passes(error) or tried == TRIES:
                    self._fail(what, error)
            self.pause(tried)
        raise AssertionError("the last try returns or raises")

    def pause(self, tried: int) -> None:
        """Waits longer each time, and never as long as others do."""
        seconds = min(_FIRST_PAUSE * 2 ** (tried - 1), _LONGEST_PAUSE)
        self._sleep(seconds * (0.5 + self._random()))

    # -- jobs

    def query(
        self,
        work: Work,
        statement: str,
        sql: str,
        params: Sequence[Any] = (),
        *,
        passing: frozenset[str] = frozenset(),
        code: str = "warehouse",
    ) -> Job:
        """Runs a statement or a script; `passing` are reasons of this one that pass, too."""
        from google.cloud.bigquery import QueryJobConfig  # noqa: PLC0415 -- see _client

        config = QueryJobConfig(
            labels=work.labels,
            maximum_bytes_billed=self._maximum_bytes_billed,
            query_parameters=list(params),
            use_legacy_sql=False,
        )

        def start(client: Any, job_id: str) -> Any:
            return client.query(sql, config, job_id=job_id, job_retry=None, **self.options)

        return self._run(work, statement, start, passing, code)

    def rows(self, done: Job, limit: int | None = None) -> Fetched:
        """The answer of a query, all of it."""

        def fetch(client: Any) -> Fetched:
            answer = done.job.result(max_results=limit, job_retry=None, **self.options)
            schema = list(answer.schema)
            if any(field.field_type == "JSON" for field in schema):
                # As the text that BigQuery has: the client would read its numbers as floats.
                answer = client.list_rows(
                    done.job.destination,
                    [_as_text(field) for field in schema],
                    max_results=limit,
                    **self.options,
                )
            return Fetched(tuple(field.name for field in schema), [row.values() for row in answer])

        return self.ask(f"read the answer of job {done.id}", fetch)

    def described(self, sql: str, params: Sequence[Any], code: str) -> dict[str, str]:
        """The columns of a SELECT with their types, without running it. Nothing is billed."""
        from google.cloud.bigquery import QueryJobConfig  # noqa: PLC0415 -- see _client

        config = QueryJobConfig(dry_run=True, query_parameters=list(params), use_legacy_sql=False)

        def describe(client: Any) -> dict[str, str]:
            job = client.query(sql, config, job_retry=None, **self.options)
            return {field.name: str(field.field_type) for field in job.schema or ()}

        try:
            return self.ask("describe a query", describe)
        except Terminal as exc:
            raise Terminal(str(exc), code=code) from exc

    def load_file(
        self, work: Work, statement: str, path: Path, table: str, schema: Sequence[Any]
    ) -> Job:
        """Adds the rows of a local Parquet file to a table."""

        def start(client: Any, job_id: str) -> Any:
            with path.open("rb") as file:
                return client.load_table_from_file(
                    file,
                    table,
                    size=path.stat().st_size,
                    num_retries=0,
                    job_id=job_id,
                    job_config=_parquet(work, schema),
                    timeout=_UPLOAD_TIMEOUT,
                )

        return self._run(work, statement, start)

    def load_objects(
        self, work: Work, statement: str, uris: Sequence[str], table: str, schema: Sequence[Any]
    ) -> Job:
        """Adds the rows of Parquet objects in Cloud Storage to a table, all of them or none."""

        def start(client: Any, job_id: str) -> Any:
            return client.load_table_from_uri(
                uris,
                table,
                job_id=job_id,
                job_config=_parquet(work, schema),
                **self.options,
            )

        return self._run(work, statement, start)

    def close(self) -> None:
        """Twice is once."""
        with self._guard:
            self._closed = True
            client, self._opened = self._opened, None
        if client is not None:
            client.close()

    def _run(
        self,
        work: Work,
        statement: str,
        start: Callable[[Any, str], Any],
        passing: frozenset[str] = frozenset(),
        code: str = "warehouse",
    ) -> Job:
        for again in range(RESUBMISSIONS + 1):
            work.check()
            job_id = work.job_id(statement, again)
            job = self._ended(work, job_id, self._started(job_id, start))
            error = job.error_result
            if error is None:
                return Job(job_id, job)
            reason = str(error.get("reason"))
            if reason not in _PASSING | passing or again == RESUBMISSIONS:
                hopeful = reason in _PASSING | passing | {"stopped"}
                raise _told(f"job {job_id} failed", reason, error.get("message"), code, hopeful)
            self.pause(again + 1)
        raise AssertionError("the last resubmission returns or raises")

    def _started(self, job_id: str, start: Callable[[Any, str], Any]) -> Any:
        from google.api_core.exceptions import Conflict  # noqa: PLC0415 -- see _client

        try:
            return self.ask(f"start job {job_id}", lambda c: start(c, job_id), Conflict)
        except Conflict:  # an answer of ours was lost
            return self._job(job_id)

    def _job(self, job_id: str) -> Any:
        from google.api_core.exceptions import NotFound  # noqa: PLC0415 -- see _client

        # A job that was refused as known may still be unknown to who is asked for it.
        for tried in range(1, TRIES):
            try:
                return self.ask(f"ask for job {job_id}", lambda c: self._get(c, job_id), NotFound)
            except NotFound:
                self.pause(tried)
        return self.ask(f"ask for job {job_id}", lambda c: self._get(c, job_id))

    def _get(self, client: Any, job_id: str) -> Any:
        return client.get_job(job_id, location=self.location, **self.options)

    def _ended(self, work: Work, job_id: str, job: Any) -> Any:
        look = _FIRST_LOOK
        while job.state != "DONE":
            try:
                work.check()
                self._sleep(look)
                look = min(2 * look, _LAST_LOOK)
                job = self._job(job_id)
            except BaseException:
                if self._cancelled(job_id):
                    raise
                return self._job(job_id)  # it was over: what it did stands
        return job

    def _cancelled(self, job_id: str) -> bool:
        """Stops a job. False when it was too late, and the job has ended well."""
        try:
            self.ask(
                f"cancel job {job_id}",
                lambda c: c.cancel_job(job_id, location=self.location, **self.options),
            )
            for _ in range(_CANCEL_LOOKS):
                job = self._job(job_id)
                if job.state == "DONE":
                    return job.error_result is not None
                self._sleep(_LAST_LOOK / 4)
        except StepError:
            return True  # the reason for the cancel is told, not this one
        return True

    # -- the client and its errors

    def _client(self) -> Any:
        # 0.7 s of imports: only a process that uses BigQuery pays for them.
        from google.api_core.client_options import ClientOptions  # noqa: PLC0415
        from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.cloud import bigquery  # noqa: PLC0415

        with self._guard:
            if self._closed:
                raise Transient("the warehouse is closed", code="warehouse")
            if self._opened is None:
                emulated = self._emulator is not None
                try:
                    self._opened = bigquery.Client(
                        project=self.project,
                        location=self.location,
                        credentials=AnonymousCredentials() if emulated else None,  # type: ignore[no-untyped-call]  # google-auth
                        client_options=ClientOptions(api_endpoint=self._emulator),
                    )
                except GoogleAuthError as error:
                    raise Terminal(
                        f"BigQuery cannot be opened: {error}", code="warehouse"
                    ) from error
            return self._opened

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        from google.api_core.exceptions import GoogleAPIError  # noqa: PLC0415 -- see _client
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415 -- see _client
        from requests.exceptions import RequestException  # noqa: PLC0415 -- see _client

        return GoogleAPIError, GoogleAuthError, RequestException

    def _passes(self, error: Exception) -> bool:
        """Was there no answer, or one that says to come later?"""
        from google.api_core.exceptions import GoogleAPICallError  # noqa: PLC0415 -- see _client
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415 -- see _client

        if isinstance(error, GoogleAuthError):
            return bool(error.retryable)
        if not isinstance(error, GoogleAPICallError):
            return True  # no answer at all
        status = int(error.code or 500)
        return status >= 500 or status == 429 or _reason(error.errors) in _PASSING

    def _fail(self, what: str, error: Exception) -> NoReturn:
        reasons: Iterable[object] = getattr(error, "errors", ())
        message = getattr(error, "message", None) or type(error).__name__
        told = _told(
            f"could not {what}", _reason(reasons), message, "warehouse", self._passes(error)
        )
        raise told from error


def parameters(
    values: Mapping[str, Value | Sequence[date]], kinds: Mapping[str, str] | None = None
) -> list[Any]:
    """Named parameters of a query, of these `kinds` or of those that their values have."""
    from google.cloud.bigquery import (  # noqa: PLC0415 -- paid by who opens a client
        ArrayQueryParameter,
        ScalarQueryParameter,
    )

    return [
        ScalarQueryParameter(name, (kinds or {}).get(name) or _kind(value), value)
        if isinstance(value, str) or not isinstance(value, Sequence)
        else ArrayQueryParameter(name, "DATE", list(value))
        for name, value in values.items()
    ]


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "BOOL"
        case int():
            return "INT64"
        case Decimal():
            return "BIGNUMERIC"
        case datetime():
            return "TIMESTAMP"
        case date():
            return "DATE"
    return "STRING"


class Fetched(NamedTuple):
    """The answer of a query."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def _parquet(work: Work, schema: Sequence[Any]) -> Any:
    from google.cloud.bigquery import LoadJobConfig  # noqa: PLC0415 -- a client is here

    return LoadJobConfig(
        source_format="PARQUET",
        schema=list(schema),
        write_disposition="WRITE_APPEND",
        create_disposition="CREATE_NEVER",
        decimal_target_types=["BIGNUMERIC"],
        labels=work.labels,
    )


def _as_text(field: Any) -> Any:
    from google.cloud.bigquery import SchemaField  # noqa: PLC0415 -- a client is here

    if field.field_type != "JSON":
        return field
    return SchemaField(field.name, "STRING", mode=field.mode)


def _reason(errors: Iterable[object]) -> str:
    """BigQuery's own word for what is wrong; '' when there is none."""
    for error in errors:
        if isinstance(error, dict):
            return str(error.get("reason", ""))
    return ""


def _told(what: str, reason: str, message: object, code: str, hopeful: bool) -> StepError:
    said = " ".join(str(message).split())[:500]
    text = f"BigQuery: {what}: {reason or 'no answer'}: {said}"
    if hopeful:
        return Transient(text, code=code)
    advice = _ADVICE.get(reason)
    return Terminal(f"{text} ({advice})" if advice else text, code=code)
