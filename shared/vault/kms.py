"""Data keys wrapped by Cloud KMS, under a symmetric key that never leaves it and is rotated there.

KMS wraps with the key's primary version and finds by itself the version that unwraps: after a rotation
everything still unwraps, and the vault's `rewrap` moves it to the new version.

Terminal is only what KMS has looked at and does not take for its own. What it refuses for the state of
the key, or for want of a right, is Unavailable: an operator can mend that, and Terminal would have the
vault give the data key up for lost.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from shared.channel import CHANNEL_OPTIONS
from shared.errors import ConfigError, Fault, PipelinesError, Terminal, Unavailable

TIMEOUT_SECONDS = 3.0
TRIES = 3
_FIRST_PAUSE = 0.05
_HOST = "cloudkms.googleapis.com"
_KEY = re.compile(r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[^/\s]+/cryptoKeys/[^/\s]+")
_ROLE = "roles/cloudkms.cryptoKeyEncrypterDecrypter"


class KmsKeyRing:
    """The key ring of one key of KMS, shared by all threads. Closed by its owner; twice is once."""

    def __init__(
        self,
        key: str,
        *,
        sleep: Callable[[float], None],
        random: Callable[[], float],
        emulator: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Connects at the first call. `emulator` is HOST:PORT of a server in Google's place.

        Raises ConfigError when `key` is no name of a key.
        """
        if not _KEY.fullmatch(key):
            said = (
                f"{key!r} is no key of Cloud KMS "
                "(projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY, no version)"
            )
            raise ConfigError([Fault("", said)])
        self._key = key
        self._sleep = sleep
        self._random = random
        self._emulator = emulator
        self._timeout = timeout_seconds
        self._opening = threading.Lock()
        self._client: Any = None
        self._closed = False

    def __repr__(self) -> str:
        return f"KmsKeyRing({self._key!r})"

    def wrap(self, key: bytes, context: bytes) -> bytes:
        from google_crc32c import value as crc32c  # noqa: PLC0415 -- only a process that seals

        def intact(answer: Any) -> bool:
            return bool(
                answer.verified_plaintext_crc32c
                and answer.verified_additional_authenticated_data_crc32c
                and answer.ciphertext_crc32c == crc32c(answer.ciphertext)
            )

        answer = self._ask(
            "wrap",
            "encrypt",
            {"plaintext": key, "plaintext_crc32c": crc32c(key), **_bound_to(context, crc32c)},
            intact,
            invalid=Unavailable(f"{self._key} cannot wrap: it must be a symmetric encryption key"),
        )
        wrapped: bytes = answer.ciphertext
        return wrapped

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        from google_crc32c import value as crc32c  # noqa: PLC0415 -- only a process that opens

        answer = self._ask(
            "unwrap",
            "decrypt",
            {
                "ciphertext": wrapped,
                "ciphertext_crc32c": crc32c(wrapped),
                **_bound_to(context, crc32c),
            },
            lambda answer: bool(answer.plaintext_crc32c == crc32c(answer.plaintext)),
            invalid=Terminal(
                f"the organization's data key does not open with {self._key}; it was wrapped by "
                "another key, cut, altered, or copied from another place: name the key that wrapped "
                "it, restore the database from a backup, or store the credential again",
                code="unsealable",
            ),
        )
        key: bytes = answer.plaintext
        return key

    def close(self) -> None:
        with self._opening:
            self._closed = True
            if self._client is not None:
                self._client.transport.close()

    def _ask(
        self,
        what: str,
        method: str,
        request: dict[str, Any],
        intact: Callable[[Any], bool],
        *,
        invalid: PipelinesError,
    ) -> Any:
        """The answer, when its checksums hold. Raises `invalid` when KMS keeps to it that we err.

        A request that was damaged on its way is answered like one that is wrong, so that too is asked
        again: https://cloud.google.com/kms/docs/data-integrity-guidelines
        """
        from google.api_core import exceptions as api  # noqa: PLC0415 -- import time
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415

        call = getattr(self._opened(), method)
        unanswered = (api.ServerError, api.TooManyRequests, api.Aborted, api.Cancelled)
        failure: PipelinesError = invalid
        for tries in range(TRIES):
            if tries:
                self._sleep(_FIRST_PAUSE * 2 ** (tries - 1) * (0.5 + self._random()))
            try:
                answer = call(
                    request={"name": self._key, **request}, retry=None, timeout=self._timeout
                )
            except api.InvalidArgument:
                failure = invalid
            except unanswered as error:
                failure = self._unavailable(what, error, "waiting may help")
            except (api.Forbidden, api.Unauthorized) as error:
                raise self._unavailable(what, error, f"give this service {_ROLE} on it") from error
            except api.NotFound as error:
                remedy = "there is no such key: check its project, location and name"
                raise self._unavailable(what, error, remedy) from error
            except api.FailedPrecondition as error:
                remedy = (
                    "enable the version that it names, or restore it; for one that is destroyed see "
                    "docs/operations.md"
                )
                raise self._unavailable(what, error, remedy) from error
            except (api.GoogleAPIError, GoogleAuthError) as error:
                raise self._unavailable(what, error, "waiting does not help") from error
            except ValueError:  # gRPC's word for a channel that another thread has closed
                if not self._closed:
                    raise
                raise Unavailable(f"{self._key}: the key ring is closed") from None
            else:
                if intact(answer):
                    return answer
                failure = Unavailable(
                    f"{self._key}: could not {what} a data key: checksums show that it was damaged "
                    f"on its way, {TRIES} times"
                )
        raise failure

    def _opened(self) -> Any:
        with self._opening:
            if self._closed:
                raise Unavailable(f"{self._key}: the key ring is closed")
            if self._client is None:
                self._client = self._connected()
        return self._client

    def _connected(self) -> Any:
        # 0.3 s of imports: only a process that seals or opens pays for them, once.
        from google.api_core.exceptions import GoogleAPIError  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.cloud.kms_v1.services.key_management_service import (  # noqa: PLC0415
            KeyManagementServiceClient,
        )
        from google.cloud.kms_v1.services.key_management_service.transports import (  # noqa: PLC0415
            KeyManagementServiceGrpcTransport,
        )

        try:
            if self._emulator is None:
                channel = KeyManagementServiceGrpcTransport.create_channel(
                    _HOST, options=CHANNEL_OPTIONS
                )
            else:
                import grpc  # type: ignore[import-untyped]  # noqa: PLC0415  # has no stubs

                channel = grpc.insecure_channel(self._emulator, options=CHANNEL_OPTIONS)
            return KeyManagementServiceClient(
                transport=KeyManagementServiceGrpcTransport(channel=channel)
            )
        except (GoogleAPIError, GoogleAuthError) as error:
            raise Unavailable(f"{self._key}: cannot be asked: {error}") from error

    def _unavailable(self, what: str, error: Exception, remedy: str) -> Unavailable:
        kind = type(error).__name__
        return Unavailable(f"{self._key}: could not {what} a data key ({remedy}): {kind}: {error}")


def _bound_to(context: bytes, crc32c: Callable[[bytes], int]) -> dict[str, Any]:
    return {
        "additional_authenticated_data": context,
        "additional_authenticated_data_crc32c": crc32c(context),
    }
