"""Leases among all processes of the platform, in Firestore: `leases/{key}`, whose it is and until when.

A lease is taken by a conditional write, and ends by itself: who dies with it holds the others up for the
rest of its time. It is not renewed. Who holds it longer than that shares it with the next, and their
commits may meet: the fence and the repetition of conflicting transactions keep that right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from shared.errors import Transient, Unavailable
from shared.firestore import Database, Path, Write, changed, created
from shared.warehouse.leases import ThreadLeases

LEASES = "leases"
_PAUSE = 1.0  # seconds, at most and by half of it more, between two looks


class FirestoreLeases:
    """The `TableLeases` in a database, which somebody else closes."""

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        new_id: Callable[[], str],
        hold: timedelta,
    ) -> None:
        """`hold` is how long a lease lasts: a commit takes seconds, of a large slice a minute."""
        self._db = database
        self._now = now
        self._sleep = sleep
        self._random = random
        self._new_id = new_id
        self._hold = hold
        self._threads = ThreadLeases()  # of one process, one asks for all

    @contextmanager
    def hold(self, key: str, check: Callable[[], None]) -> Iterator[None]:
        """Raises Transient when Firestore cannot be reached."""
        path = (LEASES, key)
        owner = self._new_id()
        with self._threads.hold(key, check):
            try:
                version = self._taken(path, owner, check)
            except Unavailable as exc:
                raise Transient(f"no lease of {key}: {exc}", code="warehouse") from exc
            try:
                yield
            finally:
                # If it is not given back, it ends by itself; if somebody else has it, it is theirs.
                with suppress(Unavailable):
                    back = changed(path, {("until",): self._now()}, version)
                    self._db.commit(f"give back {key}", back)

    def _taken(self, path: Path, owner: str, check: Callable[[], None]) -> int:
        """The version of the document that says that it is ours."""
        while True:
            check()
            now = self._now()
            stored = self._db.get([path]).get(path)
            if stored is not None and stored.fields["owner"] == owner:
                return stored.version  # an answer was lost
            if stored is not None and stored.fields["until"] > now:
                left = (stored.fields["until"] - now).total_seconds()
                self._sleep(min(left, _PAUSE * (0.5 + self._random())))
                continue
            version = self._write(path, owner, now, None if stored is None else stored.version)
            if version is not None:
                return version

    def _write(self, path: Path, owner: str, now: datetime, version: int | None) -> int | None:
        """None: somebody else was first, or the answer to the first try was lost."""
        fields = {"owner": owner, "until": now + self._hold}
        write: Write = (
            created(path, fields)
            if version is None
            else changed(path, {(name,): value for name, value in fields.items()}, version)
        )
        done = self._db.commit(f"take {path[-1]}", write)
        return None if done.versions is None else done.versions[0]
