"""What is stored of a credential: whole and of its form, or refused with all that is wrong of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bootstrap import load_providers
from shared.core.credential import Accepted, accepted
from shared.core.providers import parse_providers
from shared.errors import Invalid
from shared.settings import ROOT
from tests.support.credentials import aws_keys
from tests.support.google import EMAIL, service_account

SHIPPED = load_providers(ROOT / "configs")
ROLE = {"role_arn": "arn:aws:iam::123456789012:role/reader", "external_id": "tenant-42"}
TENANT = "11111111-2222-3333-4444-555555555555"


def stored(
    provider: str,
    secret: dict[str, Any],
    metadata: dict[str, Any] | None = None,
    kind: str | None = None,
) -> Accepted:
    return accepted(SHIPPED.get(provider), kind, secret, metadata or {})


def faults(
    provider: str,
    secret: dict[str, Any],
    metadata: dict[str, Any] | None = None,
    kind: str | None = None,
) -> list[str]:
    with pytest.raises(Invalid) as caught:
        stored(provider, secret, metadata, kind)
    return [str(fault) for fault in caught.value.faults]


def test_what_is_secret_is_sealed_and_the_rest_is_shown_too() -> None:
    found = stored("aws", aws_keys("s" * 20), {"source": "s3://bucket/costs", "team": "finops"})
    assert found.fields == {
        "access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "secret_access_key": "s" * 20,
        "source": "s3://bucket/costs",
    }
    assert found.metadata == {
        "type": "access_key",
        "access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "source": "s3://bucket/costs",
        "team": "finops",
    }


def test_googles_own_key_file_is_taken_as_it_is() -> None:
    found = stored("gcp", service_account())
    assert found.fields["private_key"] == service_account()["private_key"]
    assert found.metadata == {
        "type": "service_account",
        "client_email": EMAIL,
        "private_key_id": "0123456789abcdef",
        "project_id": "customer",
        "universe_domain": "googleapis.com",
    }
    assert "auth_uri" not in found.fields


@pytest.mark.parametrize(
    ("secret", "metadata", "kind"),
    [
        (aws_keys(), {}, "access_key"),
        ({**aws_keys(), **ROLE}, {}, "role"),
        (aws_keys(), {"role_arn": ROLE["role_arn"]}, "role"),
        (service_account(), {}, "service_account"),
        ({}, {"source": "file:exports"}, "folder"),
        ({}, {}, "folder"),
    ],
)
def test_the_fields_say_which_type_it_is(
    secret: dict[str, Any], metadata: dict[str, Any], kind: str
) -> None:
    assert stored("aws", secret, metadata).metadata["type"] == kind


def test_where_the_fields_do_not_say_it_has_to_be_said() -> None:
    (fault,) = faults("azure", {"key": "x"})
    assert fault.startswith("type say which one it is (service_principal: client_id, client_secret")


def test_a_type_that_there_is_not_is_refused_with_the_nearest_one() -> None:
    (fault,) = faults("aws", aws_keys(), kind="access_keys")
    assert "did you mean 'access_key'?" in fault


def test_everything_that_is_wrong_is_told_at_once() -> None:
    secret = {"tenant_id": "contoso", "client_secret": 7, "client_ip": TENANT}
    assert [fault.split(" ")[0] for fault in faults("azure", secret, kind="service_principal")] == [
        "secret.client_ip",
        "secret.tenant_id",
        "metadata.client_id",
        "secret.client_secret",
    ]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sk-proj-0123456789abcdef", "secret.api_key must match sk-admin-"),
        ("", "secret.api_key is empty"),
        ("sk-admin-0123456789 ", "secret.api_key must match"),
        (None, "secret.api_key is missing: The key (Settings"),
    ],
)
def test_a_key_of_the_wrong_kind_is_refused_before_it_is_stored(key: str | None, said: str) -> None:
    (fault,) = faults("openai", {"api_key": key})
    assert said in fault


def test_a_secret_is_not_taken_where_it_would_be_shown() -> None:
    (fault,) = faults("openai", {}, {"api_key": "sk-admin-0123456789"})
    assert fault.startswith("secret.api_key is secret")
    keys = aws_keys("s" * 20)
    (fault,) = faults("aws", keys, {"note": {"of": ["the key is " + "s" * 20]}})
    assert fault == "metadata.note has the secret_access_key in it, and metadata is shown"


def test_a_field_has_one_value() -> None:
    key = aws_keys()
    (fault,) = faults("aws", key, {"access_key_id": "AKIA0000000000000000"})
    assert fault == "secret.access_key_id is something else in `metadata`"
    assert stored("aws", key, {"access_key_id": key["access_key_id"]})


def test_what_was_shown_can_be_sent_again() -> None:
    first = stored("aws", aws_keys(), {"source": "s3://b/c"})
    assert stored("aws", aws_keys(), first.metadata) == first
    (fault,) = faults("aws", aws_keys(), {"type": "role"}, kind="access_key")
    assert fault.startswith("metadata.type is access_key")


def test_a_provider_without_credentials_takes_none() -> None:
    assert faults("slack", {"token": "x"}) == ["provider Slack takes no credential"]


NEEDY = parse_providers(
    b"""
p:
  title: P
  category: saas
  credentials:
    one: {description: D, fields: {
      a: {description: A, secret: true, pattern: 'aaa'}, b: {description: B, secret: false}}}
    two: {description: D, fields: {
      a: {description: A, secret: true}, c: {description: C, secret: true, required: false}}}
""",
    "p",
).get("p")
TEXTS = st.text(min_size=8, max_size=30).map(lambda text: f"<{text}>")
VALUES = st.one_of(st.none(), TEXTS, st.lists(TEXTS, max_size=2), st.integers(10**9, 10**12))
MAPPINGS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "type"]) | TEXTS, VALUES, max_size=4
)


@given(MAPPINGS, MAPPINGS, st.sampled_from([None, "one", "two"]))
def test_no_refusal_repeats_a_value(
    secret: dict[str, Any], metadata: dict[str, Any], kind: str | None
) -> None:
    try:
        found = accepted(NEEDY, kind, secret, metadata)
    except Invalid as refused:
        told = " ".join(map(str, refused.faults)) + str(refused)
        values = [*secret.values(), *metadata.values(), *(key for key in secret if key[0] == "<")]
        assert not [value for value in values if value is not None and str(value) in told]
    else:
        assert found.fields["a"] not in json.dumps(found.metadata)
        assert set(found.fields) <= {"a", "b", "c"}
        assert all(isinstance(value, str) for value in found.fields.values())
