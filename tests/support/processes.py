"""Processes that end with the one that started them, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Hands a SIGTERM on, and sends one when the pipe from the starting process closes; ends after "$@".
_LIVES_WITH_US = """
exec 3<&0 </dev/null
"$@" 3<&- &
child=$!
trap 'kill "$child" 2>/dev/null' TERM
(cat <&3 >/dev/null; kill "$child" 2>/dev/null) >/dev/null 2>&1 &
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
"""


class Supervised:
    """A command in a process group of its own. `stop` it; twice is once."""

    def __init__(
        self,
        command: Sequence[str],
        log: IO[bytes],
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _LIVES_WITH_US, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=None if environ is None else dict(environ),
            cwd=folder,
        )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, seconds: float) -> None:
        """Lets it end by itself for so long."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Ends the whole group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
