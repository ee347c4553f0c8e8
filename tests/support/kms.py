"""Cloud KMS on this machine, which has no emulator: real gRPC, real AES-256-GCM, keys with versions.

It holds a client to what Google's documentation says of Encrypt and Decrypt: checksums both ways, the
primary version seals, the version that sealed is found, and one that is not enabled is refused.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import grpc  # type: ignore[import-untyped]  # has no stubs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.cloud.kms_v1.types import service
from google_crc32c import value as crc32c

KEY = "projects/test/locations/europe/keyRings/pipelines/cryptoKeys/credentials"
_MAGIC = b"\x0akms"
_NONCE_BYTES = 12


class Fault(Enum):
    """What happens to the next call."""

    REFUSED = "unavailable"
    BUSY = "over the quota"
    SLOW = "no answer in time"
    DENIED = "the caller may not"
    DAMAGED_REQUEST = "the checksum of what arrived is wrong"
    KEY_UNVERIFIED = "the checksum of the plaintext did not arrive"
    CONTEXT_UNVERIFIED = "the checksum of the additional data did not arrive"
    DAMAGED_ANSWER = "the checksum of the answer is wrong"


class _Version:
    def __init__(self) -> None:
        self.aead = AESGCM(os.urandom(32))
        self.state = "ENABLED"


class KmsServer:
    """A server at `host` (HOST:PORT). `calls` counts them by method; `faults` has what comes next."""

    def __init__(self, port: int = 0) -> None:
        """On a free port where none is named."""
        self.calls: Counter[str] = Counter()
        self.faults: deque[Fault] = deque()
        self._keys: dict[str, list[_Version]] = {}
        self._stopping = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(16))
        handlers = {
            "Encrypt": _method(self._encrypt, service.EncryptRequest, service.EncryptResponse),
            "Decrypt": _method(self._decrypt, service.DecryptRequest, service.DecryptResponse),
        }
        name = "google.cloud.kms.v1.KeyManagementService"
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, handlers),)
        )
        self.host = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{port}')}"
        self._server.start()
        self.rotate()

    def stop(self) -> None:
        self._stopping.set()
        self._server.stop(None).wait()

    def rotate(self, key: str = KEY) -> int:
        """A new version, primary from now on; the first one makes the key. Its number."""
        versions = self._keys.setdefault(key, [])
        versions.append(_Version())
        return len(versions)

    def put(self, state: str, *, version: int, key: str = KEY) -> None:
        """Enables, disables or destroys a version."""
        self._keys[key][version - 1].state = state

    def _encrypt(self, request: Any, context: Any) -> Any:
        versions = self._asked("encrypt", request, context)
        fault = self._fault(context)
        self._check(request, context, "plaintext", fault)
        if not versions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"CryptoKey {request.name} not found.")
        primary = len(versions)
        self._usable(request.name, primary, context)
        nonce = os.urandom(_NONCE_BYTES)
        header = _MAGIC + primary.to_bytes(2)
        sealed = versions[-1].aead.encrypt(
            nonce, request.plaintext, request.additional_authenticated_data
        )
        return service.EncryptResponse(
            name=f"{request.name}/cryptoKeyVersions/{primary}",
            ciphertext=header + nonce + sealed,
            ciphertext_crc32c=_said(header + nonce + sealed, fault),
            verified_plaintext_crc32c=fault is not Fault.KEY_UNVERIFIED,
            verified_additional_authenticated_data_crc32c=fault is not Fault.CONTEXT_UNVERIFIED,
        )

    def _decrypt(self, request: Any, context: Any) -> Any:
        versions = self._asked("decrypt", request, context)
        fault = self._fault(context)
        self._check(request, context, "ciphertext", fault)
        if not versions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"CryptoKey {request.name} not found.")
        start = len(_MAGIC) + 2
        header, rest = request.ciphertext[:start], request.ciphertext[start:]
        number = int.from_bytes(header[len(_MAGIC) :])
        if not header.startswith(_MAGIC) or not 0 < number <= len(versions):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the ciphertext is invalid")
        self._usable(request.name, number, context)
        try:
            plain = versions[number - 1].aead.decrypt(
                rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], request.additional_authenticated_data
            )
        except (InvalidTag, ValueError):
            return context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the ciphertext is invalid")
        return service.DecryptResponse(
            plaintext=plain,
            plaintext_crc32c=_said(plain, fault),
            used_primary=number == len(versions),
        )

    def _asked(self, method: str, request: Any, context: Any) -> list[_Version]:
        self.calls[method] += 1
        # Google routes by this header, and refuses a call without it.
        routed = dict(context.invocation_metadata()).get("x-goog-request-params", "")
        assert routed.startswith("name=projects"), routed
        return self._keys.get(request.name, [])

    def _fault(self, context: Any) -> Fault | None:
        fault = self.faults.popleft() if self.faults else None
        match fault:
            case Fault.REFUSED:
                context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
            case Fault.BUSY:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota exceeded")
            case Fault.DENIED:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "permission denied")
            case Fault.SLOW:
                self._stopping.wait(30)
        return fault

    def _check(self, request: Any, context: Any, field: str, fault: Fault | None) -> None:
        for name in (field, "additional_authenticated_data"):
            sent = getattr(request, f"{name}_crc32c")
            assert sent is not None, f"no checksum of {name}"
            if sent != crc32c(getattr(request, name)) or fault is Fault.DAMAGED_REQUEST:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the checksum of {name} is wrong")

    def _usable(self, key: str, number: int, context: Any) -> None:
        state = self._keys[key][number - 1].state
        if state != "ENABLED":
            context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{key}/cryptoKeyVersions/{number} is not enabled, current state is: {state}.",
            )


def _method(call: Callable[[Any, Any], Any], asked: Any, answered: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=asked.deserialize, response_serializer=answered.serialize
    )


def _said(content: bytes, fault: Fault | None) -> int:
    checksum: int = crc32c(content)
    return checksum ^ 1 if fault is Fault.DAMAGED_ANSWER else checksum
