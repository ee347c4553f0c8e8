"""The one tree of errors. Each class answers two questions: whose fault, and would waiting help?

PipelinesError
├── RequestError                the caller's; the answer is its HTTP status
│   ├── Invalid           400   what was sent is wrong; carries every fault found
│   ├── Unauthenticated   401
│   ├── Forbidden         403
│   ├── NotFound          404   also for what belongs to another organization
│   ├── Conflict          409
│   ├── Mismatch          422   the idempotency key was used for another request
│   └── QuotaExceeded     429   waiting helps; says which limit and until when
├── ConfigError                 the author's of a YAML file; carries every fault with its place
├── StepError                   ends an attempt; the class decides what follows
│   ├── Transient               waiting helps: retried, honours `retry_after`
│   ├── Terminal                waiting does not help: bad credential, bad data, bad configuration
│   └── Stopped                 the attempt no longer belongs to this worker: write nothing more
├── Unavailable           503   ours: a store cannot be reached; the message is refused and comes again
└── Unreadable                  a message that is not ours or of an unknown version: parked, not guessed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input: where, what, and how to mend it."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where} {self.message}" if self.where else self.message


class PipelinesError(Exception):
    """Base of every error that the engine raises on purpose."""


class RequestError(PipelinesError):
    """The caller's fault. `code` is stable; `status` is the HTTP status that says it."""

    status = 400
    code = "invalid_request"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code


class Invalid(RequestError):
    """What was sent cannot be understood. Lists all faults, not the first."""

    def __init__(
        self, detail: str, faults: Sequence[Fault] = (), *, code: str | None = None
    ) -> None:
        super().__init__(detail, code=code)
        self.faults = tuple(faults)


class Unauthenticated(RequestError):
    """No API key, or one that is not valid."""

    status = 401
    code = "unauthenticated"


class Forbidden(RequestError):
    """A valid caller who may not do this."""

    status = 403
    code = "forbidden"


class NotFound(RequestError):
    """There is no such thing, or not for this caller."""

    status = 404
    code = "not_found"


class WrongMethod(RequestError):
    """There is something at this path, but not with this method; `allowed` are those it takes."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, detail: str, allowed: Sequence[str]) -> None:
        super().__init__(detail)
        self.allowed = tuple(allowed)


class Conflict(RequestError):
    """The thing is not in a state that allows this. `faults` say what is in the way, if it is several."""

    status = 409
    code = "conflict"

    def __init__(
        self, detail: str, faults: Sequence[Fault] = (), *, code: str | None = None
    ) -> None:
        super().__init__(detail, code=code)
        self.faults = tuple(faults)


class TooLarge(RequestError):
    """More was sent than is taken."""

    status = 413
    code = "body_too_large"


class WrongMediaType(RequestError):
    """What was sent is not of a kind that is read here."""

    status = 415
    code = "unsupported_media_type"


class Mismatch(RequestError):
    """The idempotency key was used before, for another request."""

    status = 422
    code = "idempotency_mismatch"


class QuotaExceeded(RequestError):
    """A limit of the plan is reached; `retry_after` says when it is worth coming back."""

    status = 429
    code = "quota_exceeded"

    def __init__(
        self,
        detail: str,
        *,
        limit_type: str,
        limit: int,
        used: int,
        reset_at: datetime | None,
        retry_after: timedelta,
    ) -> None:
        super().__init__(detail)
        self.limit_type = limit_type
        self.limit = limit
        self.used = used
        self.reset_at = reset_at
        self.retry_after = retry_after


class ConfigError(PipelinesError):
    """One or more YAML files are wrong. `faults` has all of them, each as `file:line:column`."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class StepError(PipelinesError):
    """Raised by a processor to end its attempt. `code` names the cause for statistics."""

    code = "step_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class Transient(StepError):
    """Would waiting help? Yes. `retry_after` is what the provider asked for."""

    code = "transient"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class Terminal(StepError):
    """Would waiting help? No: somebody has to change a credential, a file or a configuration."""

    code = "terminal"


class Stopped(StepError):
    """The lease ran out, or the run was cancelled: this worker must not write any more."""

    code = "stopped"


class Unavailable(PipelinesError):
    """One of our own stores cannot be reached. Never the caller's fault, never a 429."""


class Unreadable(PipelinesError):
    """A message that cannot be understood; the bus parks it with this reason."""
