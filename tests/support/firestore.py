"""A Firestore client that is watched, and whose answers get lost when a test says so."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from google.api_core.exceptions import ServiceUnavailable

from shared.firestore import Database


class Watch:
    """Stands between a database and its client, and counts what Google bills.

    `written` has documents by collection, `read` those asked for by path and those that queries found
    (at least one each). `before` and `after` are called with the running number of each commit, and may
    raise what the client would.
    """

    def __init__(self, database: Database) -> None:
        self.written: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.refused = 0
        self.commits = 0
        self.received_bytes = 0
        self.masks: list[set[str]] = []
        self.before: Callable[[int], None] = lambda _: None
        self.after: Callable[[int], None] = lambda _: None
        self._guard = threading.Lock()
        self._client: Any = database._rpc
        self.transport = self._client.transport
        database._rpc = self

    def batch_get_documents(self, request: Any, **options: Any) -> list[Any]:
        answers = list(self._client.batch_get_documents(request, **options))
        with self._guard:
            for name in request.documents:
                self.read[name.split("/")[-2]] += 1
            self._weigh(answers)
        return answers

    def run_query(self, request: Any, **options: Any) -> list[Any]:
        answers = list(self._client.run_query(request, **options))
        asked = type(request).pb(request).structured_query
        found = sum(bool(type(answer).pb(answer).HasField("document")) for answer in answers)
        field = asked.order_by[0].field.field_path if asked.order_by else "all"
        with self._guard:
            self.read[f"{asked.from_[0].collection_id} by {field}"] += max(1, found)
            self._weigh(answers)
        return answers

    def commit(self, request: Any, **options: Any) -> Any:
        with self._guard:
            self.commits += 1
            number = self.commits
        self.before(number)
        writes = list(type(request).pb(request).writes)
        try:
            answer = self._client.commit(request, **options)
        except Exception:
            with self._guard:
                self.refused += 1
            raise
        with self._guard:
            for write in writes:
                self.written[(write.update.name or write.delete).split("/")[-2]] += 1
                self.masks.append(set(write.update_mask.field_paths))
        self.after(number)
        return answer

    def _weigh(self, answers: list[Any]) -> None:
        self.received_bytes += sum(type(answer).pb(answer).ByteSize() for answer in answers)


def lost(number: int) -> None:
    """An answer that does not come: what was asked may have been done."""
    raise ServiceUnavailable(f"no answer to commit {number}")  # type: ignore[no-untyped-call]  # the library has no types here
