"""Executions of a Cloud Run job: one for each start, with the attempt in its arguments.

The job is this image with the command `python -m functions.step_job`; its arguments name the run, the
step and the attempt, and never carry a configuration, which may be larger than a command line may be.
https://cloud.google.com/run/docs/reference/rest/v2/projects.locations.jobs/run
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from datetime import timedelta
from http import HTTPStatus
from typing import Any, NoReturn

import urllib3

from shared.errors import Unavailable

ENDPOINT = "https://run.googleapis.com"
TIMEOUT_SECONDS = 4.0
TRIES = 3
_FIRST_PAUSE = 0.1
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# From the start of the container to the claim, and from the end of the step to its close.
_AROUND = timedelta(minutes=5)
_PASSING = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,  # somebody changes the job just now
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_SAID_BYTES = 500


class CloudRunJobs:
    """Jobs over one Cloud Run job. Shared by all threads; closed by its owner.

    A start whose answer was lost is sent again, so that there may be two executions of it.
    """

    def __init__(
        self,
        job: str,
        *,
        sleep: Callable[[float], None],
        random: Callable[[], float],
        emulator: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`job` is projects/P/locations/L/jobs/J. The emulator is HOST:PORT, and asks nobody who they are."""
        self._job = job
        self._url = f"{ENDPOINT if emulator is None else f'http://{emulator}'}/v2/{job}:run"
        self._anonymous = emulator is not None
        self._sleep = sleep
        self._random = random
        self._timeout = timeout_seconds
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(total=timeout_seconds), retries=False
        )
        self._lock = threading.Lock()
        self._credentials: Any = None

    def start(self, run_id: str, step_id: str, attempt: int, timeout: timedelta) -> None:
        what = f"start {self._job} for {run_id}/{step_id}.{attempt}"
        seconds = math.ceil((timeout + _AROUND).total_seconds())
        overrides = {
            "containerOverrides": [{"args": [run_id, step_id, str(attempt)]}],
            "taskCount": 1,
            "timeout": f"{seconds}s",
        }
        body = json.dumps({"overrides": overrides}).encode()
        for tried in range(1, TRIES + 1):
            last = tried == TRIES
            try:
                answer = self._pool.request("POST", self._url, body=body, headers=self._headers())
            except urllib3.exceptions.HTTPError as error:
                if last:
                    _fail(what, "waiting may help", f"{type(error).__name__}: {error}", error)
            else:
                if answer.status < HTTPStatus.MULTIPLE_CHOICES:
                    return
                if last or answer.status not in _PASSING:
                    said = answer.data[:_SAID_BYTES].decode(errors="replace")
                    _fail(what, _remedy(answer.status), f"http {answer.status}: {said}")
            self._sleep(_FIRST_PAUSE * 2 ** (tried - 1) * (0.5 + self._random()))

    def close(self) -> None:
        self._pool.clear()

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._anonymous:
            return headers
        # 0.1 s of imports, once and only by a process that starts a job; the client library of Cloud
        # Run would bring gRPC and its messages for this one call.
        import google.auth  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.auth.transport.urllib3 import Request  # noqa: PLC0415

        try:
            with self._lock:  # one thread fetches a token, the others wait for it
                if self._credentials is None:
                    self._credentials, _ = google.auth.default(scopes=[_SCOPE])
                request = Request(self._pool)  # type: ignore[no-untyped-call]  # typed in part
                self._credentials.before_request(request, "POST", self._url, headers)
        except GoogleAuthError as error:
            raise Unavailable(f"{ENDPOINT}: no token for this process: {error}") from error
        return headers


def _remedy(status: int) -> str:
    if status == HTTPStatus.FORBIDDEN:
        return "give this service roles/run.jobsExecutorWithOverrides on it"
    if status == HTTPStatus.NOT_FOUND:
        return "there is no such job: check its project, location and name"
    return "waiting may help" if status in _PASSING else "waiting does not help"


def _fail(what: str, hope: str, why: str, error: Exception | None = None) -> NoReturn:
    raise Unavailable(f"could not {what} ({hope}): {why}") from error
