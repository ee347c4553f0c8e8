"""Runs one attempt of a long step, which no push request lives long enough for.

`python -m functions.step_job RUN STEP ATTEMPT` is the command of the Cloud Run job that `step_worker`
starts for it. Its exit code says whether the end of the attempt is stored, not what it came to.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from shared.bootstrap import engine
from shared.engine import Engine
from shared.errors import ConfigError, Unavailable
from shared.log import Log

USAGE = "python -m functions.step_job RUN STEP ATTEMPT"


def run_attempt(made: Engine, arguments: Sequence[str]) -> int:
    """0: done, or nothing to do. 1: a store could not be reached. 2: these arguments name no attempt.

    On SIGTERM, ten seconds before Cloud Run takes the machine, the attempt is closed as lost, so that
    the next one need not wait for the lease of this one.
    """
    log = made.app.log
    if len(arguments) != 3 or not (arguments[2].isascii() and arguments[2].isdigit()):
        log.error("step_job.usage", usage=USAGE, got=" ".join(arguments))
        return 2
    run_id, step_id, attempt = arguments
    worker = made.worker
    signal.signal(signal.SIGTERM, lambda *_: worker.end())
    try:
        worker.work_in_job(run_id, step_id, int(attempt))
    except Unavailable as error:
        log.error("step_job.unavailable", run=run_id, step=step_id, error=str(error))
        return 1
    finally:
        made.close()
    return 0


def main() -> int:
    """The engine of this process's settings, and the attempt of its arguments."""
    try:
        return run_attempt(engine({}), sys.argv[1:])
    except (ConfigError, Unavailable) as error:
        Log().error("step_job.not_opened", error=str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
