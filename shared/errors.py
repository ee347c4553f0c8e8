"""The one tree of errors. Each class answers two questions: whose fault, and would waiting help?

PipelinesError
├── RequestError                the caller's; the answer is its HTTP status
│   ├── Invalid           400   what was sent is wrong; carries every fault found
│   ├── Unauthenticated   401
│   ├── Forbidden         403
│   ├── NotFound          404   also for what belongs to another organization
│   ├── Conflict          409
│   ├── Mismatch          422   the idempotency key was used for another request
│   ├── QuotaExceeded     429   waiting helps; says which limit and until when
│   └── TooMany           429   waiting helps: requests come faster than they are taken
├── ConfigError                 the author's of a YAML file; carries every fault with its place
├── StepError                   ends an attempt; the class decides what follows
│   ├── Transient               waiting helps: retried, honours `retry_after`
│   ├── Terminal                waiting does not help: bad credential, bad data, bad configuration
│   └── Stopped                 the attempt no longer belongs to this worker: write nothing more
├── Unavailable           503   ours: a store cannot be reached; the message is refused and comes again
└── Unreadable                  a message that is not ours or of an unknown version: parked, not guessed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple


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
    code = "invalid_request"  # one of CODES

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
    """A limit of the plan is reached; `retry_after` says when it is worth coming back.

    That is `reset_at` where there is one. Where a run has to end first nobody knows when, and there may
    be no room yet.
    """

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


class TooMany(RequestError):
    """More requests than this process takes of one caller; `retry_after` is when there is room again."""

    status = 429
    code = "rate_limited"

    def __init__(self, detail: str, *, retry_after: timedelta, code: str | None = None) -> None:
        super().__init__(detail, code=code)
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


class Code(NamedTuple):
    """What the API tells by a code: with which status, why it happens, and what to do about it."""

    statuses: tuple[int, ...]
    cause: str
    fix: str


# Every `error` of an answer of the API. A code is for ever: a program may depend on it.
CODES: Mapping[str, Code] = {
    "invalid_request": Code(
        (400,),
        "A field of the body, a parameter of the query or a header is missing, unknown or not valid.",
        "Mend every field that `faults` names, and send the request again.",
    ),
    "invalid_json": Code(
        (400,),
        "The body is not JSON, or not an object.",
        "Send a JSON object in UTF-8, or no body where none is needed.",
    ),
    "credential_missing": Code(
        (400,),
        "The pipeline needs a credential of its provider, and the organization has none.",
        "Store one: PUT /admin/orgs/{org}/credentials/{provider}/{credential_id}.",
    ),
    "credential_ambiguous": Code(
        (400,),
        "The organization has several credentials of the provider, and the request names none.",
        "Name one of those that `faults` lists as `credential_id`.",
    ),
    "credential_not_used": Code(
        (400,),
        "The request names a credential, and no step of the pipeline uses one.",
        "Leave `credential_id` out.",
    ),
    "plan_too_large": Code(
        (400,),
        "The pipeline, with all its values put in, is larger than a run may be.",
        "Make its configuration smaller, or split it into several pipelines.",
    ),
    "unauthenticated": Code(
        (401,),
        "There is no API key, or it is not known, has expired or was revoked.",
        "Send a valid key in the header X-API-Key.",
    ),
    "forbidden": Code(
        (403,),
        "Only an operator may do this.",
        "Ask the operator of the platform.",
    ),
    "scope_missing": Code(
        (403,),
        "The key is valid, but does not have the scope that this needs.",
        "Use a key with the scope that `detail` names.",
    ),
    "org_not_active": Code(
        (403,),
        "The organization's subscription is neither ACTIVE nor TRIAL.",
        "Ask the operator of the platform to activate it.",
    ),
    "not_found": Code(
        (404,),
        "There is no such thing, or not for this key.",
        "Take its name from the list that it is in.",
    ),
    "path_not_found": Code(
        (404,),
        "There is nothing at this path.",
        "Compare it with GET /openapi.json.",
    ),
    "org_not_found": Code(
        (404,),
        "There is no such organization, or it is not the one of the key.",
        "Use the slug of the organization that the key belongs to.",
    ),
    "schedule_not_found": Code(
        (404,),
        "The organization has no schedule of that name.",
        "List them with GET /pipelines/schedules/{org}.",
    ),
    "schedule_changed": Code(
        (409,),
        "Somebody else, or a tick, changed the schedule between its reading and its writing.",
        "Send the request again.",
    ),
    "provider_not_found": Code(
        (404,),
        "The registry of providers has none of this name or alias.",
        "Take one that `detail` lists, or add it to configs/system/providers.yml.",
    ),
    "run_not_found": Code(
        (404,),
        "The organization has no such run; runs are deleted some time after their end.",
        "Take the run id from the answer of its start, or from the history.",
    ),
    "pipeline_not_found": Code(
        (404,),
        "There is no pipeline at this address.",
        "Take the address from GET /pipelines/catalog/{org}; `detail` has the near misses.",
    ),
    "table_not_found": Code(
        (404,),
        "The organization has no such table, or none that can be read.",
        "Name a table that a run of it has loaded, such as focus_costs.",
    ),
    "key_not_found": Code(
        (404,),
        "The organization has no such key.",
        "Take the key id from GET /admin/orgs/{org}/keys.",
    ),
    "subscription_not_found": Code(
        (404,),
        "The organization has no such subscription.",
        "Take the name from GET /admin/subscriptions/{org}.",
    ),
    "credential_not_found": Code(
        (400, 404),
        "The organization has no active credential of that name.",
        "Take the name from GET /admin/orgs/{org}/credentials/{provider}.",
    ),
    "dead_letter_not_found": Code(
        (404,),
        "There is no such dead letter; it may have been sent again or dropped.",
        "Take the id from GET /admin/dead-letters.",
    ),
    "method_not_allowed": Code(
        (405,),
        "There is something at this path, but not with this method.",
        "Use one of the methods in the header Allow.",
    ),
    "conflict": Code(
        (409,),
        "The thing is not in a state that allows this; `detail` says why.",
        "Do what `detail` says, or leave the thing as it is.",
    ),
    "organization_exists": Code(
        (409,),
        "There is an organization with this slug already.",
        "Use the one that is there, or choose another slug.",
    ),
    "run_not_ended": Code(
        (409,),
        "The run has not ended, so it cannot be retried.",
        "Wait for its end, or cancel it first.",
    ),
    "run_completed": Code(
        (409,),
        "The run has completed, so there is nothing to resume.",
        "Retry it with the mode rerun, or start a new run.",
    ),
    "too_many_retries": Code(
        (409,),
        "The run has been retried as often as a run can be.",
        "Retry the newest of its retries, or start a new run.",
    ),
    "pipeline_changed": Code(
        (409,),
        "The pipeline is no longer what it was; `faults` say what changed.",
        "Retry the run with the mode rerun.",
    ),
    "credential_gone": Code(
        (409,),
        "The credential of the run is not active any more; a retry in either mode would use it.",
        "Store it again, or start a new run with another credential.",
    ),
    "unsealable": Code(
        (409,),
        "A data key of the organization does not open with the keys of the key ring.",
        "Give the key ring back the version of the key that wrapped it.",
    ),
    "body_too_large": Code(
        (413,),
        "The body is larger than the API takes.",
        "Send less; no request of the API needs a megabyte.",
    ),
    "unsupported_media_type": Code(
        (415,),
        "The body is not said to be JSON.",
        "Send the header Content-Type: application/json.",
    ),
    "idempotency_mismatch": Code(
        (422,),
        "The Idempotency-Key was used before, for another request.",
        "Use a new key for a new request, or send the old request again as it was.",
    ),
    "quota_exceeded": Code(
        (429,),
        "A limit of the organization's plan is reached: `limit_type`, `limit` and `used` say which.",
        "Wait as long as Retry-After says: to `reset_at`, when the day or the month begins, or, where a run"
        " has to end first and nobody knows when, until it is worth asking again.",
    ),
    "rate_limited": Code(
        (429,),
        "Requests with this key come faster than they are taken.",
        "Wait as long as Retry-After says, and slow down as the header RateLimit asks.",
    ),
    "too_many_followers": Code(
        (429,),
        "As many requests as this process of the API lets wait do wait for the lines of runs.",
        "Wait as long as Retry-After says, or ask without `follow`.",
    ),
    "too_many_attempts": Code(
        (429,),
        "Too many requests with keys that are not valid came from this address.",
        "Wait as long as Retry-After says, and use a valid key.",
    ),
    "internal": Code(
        (500,),
        "A fault of the engine. Nothing of what was asked is promised.",
        "Report it with its `request_id`; the operator finds it in the log.",
    ),
    "configuration_fault": Code(
        (500,),
        "This release's pipelines or settings are faulty.",
        "The operator finds every fault in the log; `pipelines validate configs` tells them, too.",
    ),
    "unavailable": Code(
        (503,),
        "A store of the engine cannot be reached.",
        "Try again after Retry-After, with the same Idempotency-Key.",
    ),
}
