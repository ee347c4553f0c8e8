"""Pushes as Google's service does where the emulator does less: pulls a subscription, posts what it gets.

It adds what the emulator lacks: as many requests at once as wanted, `deliveryAttempt` (where there is a
dead-letter policy), `orderingKey`, a message without `data`, 202 as an acknowledgement, and the signed
token of a service account. For subscriptions without an endpoint of their own.
"""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from types import TracebackType
from typing import Any, Self

import grpc  # type: ignore[import-untyped]  # has no stubs
import urllib3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core.exceptions import GoogleAPICallError
from google.auth import crypt, jwt
from google.pubsub_v1.services.subscriber import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import ReceivedMessage

ACKNOWLEDGED = frozenset({102, 200, 201, 202, 204})  # cloud.google.com/pubsub/docs/push
ISSUER = "https://accounts.google.com"
EMAIL = "pusher@example.iam.gserviceaccount.com"
TOKEN_SECONDS = 3600
_PULL_SECONDS = 1.0


class Signer:
    """A key as Google has one: signs tokens, and `public_key` (PEM) verifies them."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.public_key = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._signer = crypt.RSASigner.from_string(pem, "test-key")  # type: ignore[no-untyped-call]  # the library has no types here

    def token(self, audience: str, **claims: object) -> str:
        """A token (RS256) for the audience; `claims` replace what is usual."""
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": audience,
            "azp": "1",
            "sub": "1",
            "email": EMAIL,
            "email_verified": True,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            **claims,
        }
        encoded: bytes = jwt.encode(self._signer, payload)  # type: ignore[no-untyped-call]  # see above
        return encoded.decode()


class Relay:
    """Delivers as long as the `with`; what is at an endpoint then is not waited for."""

    def __init__(
        self,
        host: str,
        subscription: str,
        endpoint: str,
        *,
        at_once: int = 8,
        signer: Signer | None = None,
        audience: str | None = None,
    ) -> None:
        """`host` is the emulator's, `subscription` a full name, the audience by default the endpoint."""
        self.signer = signer or Signer()
        self._subscription = subscription
        self._endpoint = endpoint
        self._audience = audience or endpoint
        self._stopping = threading.Event()
        self._http = urllib3.PoolManager(retries=False, maxsize=at_once)
        self._channel = grpc.insecure_channel(
            host, options=[("grpc.max_receive_message_length", -1)]
        )
        self._client = SubscriberClient(transport=SubscriberGrpcTransport(channel=self._channel))
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(at_once)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._channel.close()
        self._http.clear()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                answer = self._client.pull(
                    subscription=self._subscription,
                    max_messages=1,
                    retry=None,
                    timeout=_PULL_SECONDS,
                )
            except GoogleAPICallError:
                continue  # nothing came in that time
            for received in answer.received_messages:
                self._settle(received.ack_id, acknowledged=self._post(received))

    def _settle(self, ack_id: str, *, acknowledged: bool) -> None:
        call: dict[str, Any] = {"subscription": self._subscription, "ack_ids": [ack_id]}
        if acknowledged:
            self._client.acknowledge(request=call)
        else:
            self._client.modify_ack_deadline(request={**call, "ack_deadline_seconds": 0})

    def _post(self, received: ReceivedMessage) -> bool:
        token = self.signer.token(self._audience)
        try:
            answer = self._http.request(
                "POST",
                self._endpoint,
                body=json.dumps(envelope(self._subscription, received)),
                headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
                redirect=False,
            )
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status in ACKNOWLEDGED


def envelope(subscription: str, received: ReceivedMessage) -> dict[str, Any]:
    """What Google's service posts (cloud.google.com/pubsub/docs/push); what is empty is left out."""
    message = received.message
    published = message.publish_time.isoformat().replace("+00:00", "Z")
    said = {
        "attributes": dict(message.attributes),
        "data": b64encode(message.data).decode(),
        "messageId": message.message_id,
        "message_id": message.message_id,
        "orderingKey": message.ordering_key,
        "publishTime": published,
        "publish_time": published,
    }
    posted: dict[str, Any] = {
        "message": {name: value for name, value in said.items() if value},
        "subscription": subscription,
    }
    if received.delivery_attempt:
        posted["deliveryAttempt"] = received.delivery_attempt
    return posted
