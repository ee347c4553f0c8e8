"""Topics, push subscriptions and a queue on emulators, as they are declared on Google Cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]  # has no stubs
import urllib3
from google.cloud.tasks_v2.services.cloud_tasks import CloudTasksClient
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.cloud.tasks_v2.types import Queue

from shared.core.message import Topic

MAX_DELIVERIES = 5  # the least that Pub/Sub allows


def provision(
    host: str,
    project: str,
    prefix: str,
    endpoints: Mapping[Topic, str],
    *,
    max_deliveries: int = MAX_DELIVERIES,
    ack_deadline_seconds: int = 60,
) -> None:
    """Every topic, and a push subscription of the topic's name for each that has an endpoint (its URL).

    What is not acknowledged goes to `dead-letters`. There is no retry policy: the emulator then tries
    again each second, and with any policy it takes longer.
    """
    for topic in Topic:
        _call(host, "PUT", f"projects/{project}/topics/{prefix}{topic}", {})
    for topic, url in endpoints.items():
        subscription: dict[str, Any] = {
            "topic": f"projects/{project}/topics/{prefix}{topic}",
            "pushConfig": {"pushEndpoint": url},
            "ackDeadlineSeconds": ack_deadline_seconds,
        }
        if topic is not Topic.DEAD_LETTERS:
            subscription["deadLetterPolicy"] = {
                "deadLetterTopic": f"projects/{project}/topics/{prefix}{Topic.DEAD_LETTERS}",
                "maxDeliveryAttempts": max_deliveries,
            }
        _call(host, "PUT", f"projects/{project}/subscriptions/{prefix}{topic}", subscription)


def subscribe(host: str, project: str, topic: str, name: str, **options: Any) -> str:
    """A pull subscription besides; its full name. `options` are fields of the REST API."""
    full = f"projects/{project}/subscriptions/{name}"
    _call(host, "PUT", full, {"topic": f"projects/{project}/topics/{topic}", **options})
    return full


def publish(host: str, project: str, topic: str, *messages: Mapping[str, Any]) -> None:
    """Publishes messages of the REST API, of any shape that it takes."""
    _call(host, "POST", f"projects/{project}/topics/{topic}:publish", {"messages": list(messages)})


def pull(host: str, subscription: str) -> set[str]:
    """The ids of the messages that wait in a pull subscription (its full name); they are gone then."""
    asked = {"maxMessages": 1000, "returnImmediately": True}
    found = _call(host, "POST", f"{subscription}:pull", asked).get("receivedMessages", [])
    if found:
        ack_ids = {"ackIds": [received["ackId"] for received in found]}
        _call(host, "POST", f"{subscription}:acknowledge", ack_ids)
    return {received["message"]["messageId"] for received in found}


def unsubscribe(host: str, project: str) -> None:
    """Ends every delivery of the project: its endpoints are gone."""
    found = _call(host, "GET", f"projects/{project}/subscriptions", None)
    for subscription in found.get("subscriptions", []):
        _call(host, "DELETE", subscription["name"], None)


def create_queue(host: str, name: str) -> None:
    """A queue of Cloud Tasks; `name` is projects/P/locations/L/queues/Q."""
    with _tasks(host) as client:
        client.create_queue(parent=name.rpartition("/queues/")[0], queue=Queue(name=name))


def tasks(host: str, queue: str) -> list[str]:
    """The names of the tasks that the queue holds."""
    with _tasks(host) as client:
        return [task.name for task in client.list_tasks(parent=queue)]


@contextmanager
def _tasks(host: str) -> Iterator[CloudTasksClient]:
    with grpc.insecure_channel(host) as channel:
        yield CloudTasksClient(transport=CloudTasksGrpcTransport(channel=channel))


def _call(host: str, method: str, name: str, body: Any) -> Any:
    answer = urllib3.request(
        method,
        f"http://{host}/v1/{name}",
        body=None if body is None else json.dumps(body),
        headers={"Content-Type": "application/json"},
        retries=False,
        timeout=10,
    )
    assert answer.status == 200, (method, name, answer.data)
    return json.loads(answer.data)
