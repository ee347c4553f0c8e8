"""A Cloud Storage bucket that Parquet files pass on their way to BigQuery.

The bucket is the platform's own. Objects are deleted after their load job; what a killed process leaves
there is for the bucket's lifecycle rule to delete (a day is enough).
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

_CHUNK = 8 * 2**20  # of a file, in memory
_TIMEOUT = 120.0


class Staging:
    """The bucket, for objects whose names begin with `prefix`.

    `emulator` is the URL of a server in Google's place.
    """

    def __init__(
        self, bucket: str, *, prefix: str = "staging/", emulator: str | None = None
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._emulator = emulator
        self._guard = threading.Lock()
        self._opened: Any = None

    def put(self, path: Path, name: str) -> str:
        """Uploads a file and gives its URI; again, it replaces itself. Raises Google's errors."""
        blob = self._client().bucket(self._bucket).blob(self._prefix + name, chunk_size=_CHUNK)
        blob.upload_from_filename(str(path), timeout=_TIMEOUT, retry=None)
        return f"gs://{self._bucket}/{blob.name}"

    def remove(self, uri: str) -> None:
        """Deletes what `put` gave, if it can: the lifecycle rule does it else."""
        from google.api_core.exceptions import GoogleAPIError  # noqa: PLC0415 -- see _client
        from requests.exceptions import RequestException  # noqa: PLC0415 -- see _client

        name = uri.removeprefix(f"gs://{self._bucket}/")
        with suppress(GoogleAPIError, RequestException):
            self._client().bucket(self._bucket).blob(name).delete(timeout=_TIMEOUT, retry=None)

    def close(self) -> None:
        """Twice is once."""
        with self._guard:
            client, self._opened = self._opened, None
        if client is not None:
            client.close()

    def _client(self) -> Any:
        # Imported by the first load that is too large to go without it.
        from google.api_core.client_options import ClientOptions  # noqa: PLC0415
        from google.auth.credentials import AnonymousCredentials  # noqa: PLC0415
        from google.cloud.storage import Client  # type: ignore[import-untyped]  # noqa: PLC0415

        with self._guard:
            if self._opened is None:
                emulated = self._emulator is not None
                self._opened = Client(
                    project="emulator" if emulated else None,
                    credentials=AnonymousCredentials() if emulated else None,  # type: ignore[no-untyped-call]  # google-auth
                    client_options=ClientOptions(api_endpoint=self._emulator),
                )
            return self._opened
