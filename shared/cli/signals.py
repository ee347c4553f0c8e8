"""Lets Ctrl-C and SIGTERM end a command, wherever its main thread is.

What a handler raises inside a finalizer is lost: Python prints that it was ignored, and goes on.
"""

from __future__ import annotations

import signal
from types import FrameType

_AGAIN_SECONDS = 0.05


def end_on_signals() -> None:
    """From now on they raise KeyboardInterrupt and SystemExit; inside a finalizer, right after it."""
    asked: list[int] = []

    def end(signum: int, frame: FrameType | None) -> None:
        if signum != signal.SIGALRM:
            asked.append(signum)
        if _in_finalizer(frame):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        elif asked[0] == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + asked[0])

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(signum, end)


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__" or frame.f_code.co_filename.endswith("weakref.py"):
            return True
        frame = frame.f_back
    return False
