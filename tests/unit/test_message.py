"""What is said of a message outside its body: its run and trace, and that a subscription gave it up."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shared.core.message import PushMessage, Topic, attributes_of, given_up, traced

SOURCE = "CloudPubSubDeadLetterSource"


def test_only_what_is_known_is_said() -> None:
    assert attributes_of("r1") == {"run": "r1"}
    assert attributes_of("r1", "acme", "00-1-2-01") == {
        "run": "r1",
        "org": "acme",
        "traceparent": "00-1-2-01",
    }


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "passed_on"),
    [
        (f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01"),
        (f"01-{TRACE}-{SPAN}-00-what-is-new", f"00-{TRACE}-{SPAN}-00"),
        (f"01-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"01-{TRACE}-{SPAN}-00more", ""),
        (f"00-{TRACE}-{SPAN}-01-more", ""),
        (f"ff-{TRACE}-{SPAN}-01", ""),
        (f"00-{TRACE.upper()}-{SPAN}-01", ""),
        (f"00-{'0' * 32}-{SPAN}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE}-{SPAN}", ""),
        (f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01", ""),  # the header twice
        (f"00-{TRACE}-{SPAN}-01\n", ""),
        ("'; DROP TABLE runs", ""),
        ("", ""),
    ],
)
def test_only_a_header_that_is_one_is_passed_on(header: str, passed_on: str) -> None:
    assert traced(header) == passed_on


@pytest.mark.parametrize("topic", Topic)
def test_a_message_that_was_given_up_goes_back_to_the_topic_of_its_subscription(
    topic: Topic,
) -> None:
    found = given_up(
        PushMessage(
            data=b"x",
            attributes={
                "run": "r1",
                f"{SOURCE}DeliveryCount": "7",
                f"{SOURCE}Subscription": f"pipelines-prod-{topic}",
                f"{SOURCE}SubscriptionProject": "p",
                f"{SOURCE}TopicPublishTime": "2026-03-01T12:00:00.123+00:00",
            },
        )
    )
    assert found.topic is topic
    assert found.attributes == {"run": "r1"}
    assert found.deliveries == 7
    assert f"7 times to subscription pipelines-prod-{topic}" in found.reason
    assert found.published_at == datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)


def test_no_name_of_a_topic_is_the_end_of_another() -> None:
    for topic in Topic:
        assert [other for other in Topic if other.endswith(topic)] == [topic]


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param({}, id="nothing"),
        pytest.param({f"{SOURCE}Subscription": "another-system"}, id="another's subscription"),
        pytest.param({f"{SOURCE}DeliveryCount": "many"}, id="no number"),
        pytest.param({f"{SOURCE}DeliveryCount": "9" * 99}, id="no count"),
        pytest.param({f"{SOURCE}TopicPublishTime": "yesterday"}, id="no time"),
        pytest.param({f"{SOURCE}TopicPublishTime": "2026-03-01T12:00:00"}, id="no zone"),
    ],
)
def test_what_does_not_say_where_it_comes_from_stays_a_dead_letter(
    attributes: dict[str, str],
) -> None:
    found = given_up(PushMessage(data=b"x", attributes={**attributes, "a": "b"}))
    assert (found.topic, found.attributes) == (Topic.DEAD_LETTERS, {"a": "b"})
    assert (found.deliveries, found.published_at) == (1, None)
    assert found.reason
    assert attributes.get(f"{SOURCE}Subscription", "") in found.reason


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=UTC)),
        ("2026-03-01T12:00:00.123456789Z", datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("", None),
        ("soon", None),
    ],
)
def test_the_time_of_an_envelope_is_read_where_there_is_one(text: str, at: datetime | None) -> None:
    assert PushMessage(publish_time=text).published_at == at
