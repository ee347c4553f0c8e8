"""The registry of providers: what this release ships, and every fault of a file at its place."""

from __future__ import annotations

import re

import pytest

from shared.bootstrap import load_providers
from shared.core.providers import Providers, parse_providers
from shared.core.secret import Secret
from shared.errors import ConfigError, NotFound, Terminal
from shared.settings import ROOT


@pytest.fixture(scope="module")
def shipped() -> Providers:
    return load_providers(ROOT / "configs")


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_providers(text.encode(), "p.yml")
    return [str(fault) for fault in caught.value.faults]


def test_the_providers_of_the_shipped_pipelines_are_there(shipped: Providers) -> None:
    names = {provider.name for provider in shipped}
    assert names >= {"openai", "anthropic", "gemini", "deepseek", "gcp", "aws", "azure", "oci"}


@pytest.mark.parametrize(
    ("word", "name"), [("google", "gcp"), ("claude", "anthropic"), ("openai", "openai")]
)
def test_a_provider_is_found_by_its_name_and_by_its_aliases(
    shipped: Providers, word: str, name: str
) -> None:
    assert shipped.get(word).name == name


def test_an_unknown_provider_is_refused_with_the_nearest_one(shipped: Providers) -> None:
    assert shipped.find("opnai") is None
    with pytest.raises(NotFound, match="did you mean 'openai'") as caught:
        shipped.get("opnai")
    assert caught.value.code == "provider_not_found"


def test_an_unknown_base_url_is_refused_with_the_nearest_one(shipped: Providers) -> None:
    assert shipped.get("openai").base_url("api") == "https://api.openai.com/v1"
    with pytest.raises(Terminal, match="did you mean 'monitoring'"):
        shipped.get("gemini").base_url("monitorin")


def test_the_secrets_of_a_credential_are_what_is_not_declared_to_be_shown(
    shipped: Providers,
) -> None:
    key = Secret(
        '{"client_email": "a@b", "private_key": "PEM", "other": ["x", {"y": "z"}], "n": 1}'
    )
    assert list(shipped.get("gcp").secrets_of(key)) == ["PEM", "x", "z"]
    assert list(shipped.get("gcp").secrets_of(Secret("bare"))) == ["bare"]


def test_every_pattern_matches_something_that_its_description_could_mean(
    shipped: Providers,
) -> None:
    examples = {
        ("openai", "admin_key", "api_key"): "sk-admin-abcdefgh_123",
        ("anthropic", "admin_key", "api_key"): "sk-ant-admin01-abcdefgh",
        ("aws", "access_key", "access_key_id"): "AKIAIOSFODNN7EXAMPLE",
        ("aws", "role", "role_arn"): "arn:aws:iam::123456789012:role/finops/reader",
        ("aws", "access_key", "region"): "us-gov-west-1",
        ("azure", "service_principal", "tenant_id"): "11111111-2222-3333-4444-555555555555",
        ("azure", "sas", "sas_token"): "?sv=2024-11-04&sp=rl&sig=abc%3D",
        ("oci", "api_key", "tenancy"): "ocid1.tenancy.oc1..aaaa",
        ("oci", "api_key", "fingerprint"): ":".join(["0a"] * 16),
        ("oci", "api_key", "region"): "eu-frankfurt-1",
        ("gcp", "service_account", "client_email"): "r@p.iam.gserviceaccount.com",
    }
    for (provider, kind, field), example in examples.items():
        pattern = shipped.get(provider).credentials[kind].fields[field].pattern
        assert pattern is not None
        assert re.fullmatch(pattern, example), (provider, kind, field)


WHOLE = """\
one:
  title: One
  category: cloud
"""

PREFLIGHT = (
    WHOLE
    + """\
  base_urls: {api: "https://x.com"}
  credentials: {key: {description: D,
    fields: {k: {description: D, secret: true}},
    preflight: {%s}}}
"""
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("one: {title: One, category: clowd}", "p.yml:1:29 one.category must be one of"),
        ("one: {title: One}", "p.yml:1:6 one.category is missing"),
        (WHOLE + "  limit: {}", "p.yml:4:3 one.limit is not a known key (did you mean 'limits'?)"),
        (WHOLE + "  base_urls: {api: http://x.com}", "p.yml:4:20 one.base_urls.api must match"),
        (WHOLE + "  base_urls: {api: https://x.com/}", "p.yml:4:20 one.base_urls.api must match"),
        (
            WHOLE + "  limits: {concurrent: 0}",
            "p.yml:4:24 one.limits.concurrent must be at least 1",
        ),
        (WHOLE + "one: {}", "p.yml:4:1 the key 'one' is given twice"),
        (WHOLE + "Two: {title: T, category: saas}", "p.yml:4:1 Two is no valid key"),
        (
            WHOLE + "two: {title: T, category: saas, aliases: [a, one]}",
            "p.yml:4:46 two.aliases[1] 'one' names the provider 'one' already",
        ),
        (
            WHOLE
            + "  credentials: {key: {description: D, fields: {k: {description: D, secret: true, "
            "pattern: '('}}}}",
            "p.yml:4:91 one.credentials.key.fields.k.pattern is no regular expression",
        ),
        (
            WHOLE + "  credentials: {key: {description: D, fields: {k: {description: D}}}}",
            "one.credentials.key.fields.k.secret is missing",
        ),
        (
            PREFLIGHT % "base_url: api, headers: {x: 'a {kay}'}",
            "p.yml:7:16 one.credentials.key.preflight names 'kay', which is no field of key",
        ),
        (PREFLIGHT % "base_url: apo", "preflight needs the base_url 'apo', which one has not"),
        (PREFLIGHT % "scope: s", "preflight needs the base_url 'token', which one has not"),
        (PREFLIGHT % "needs: x", "preflight asks nothing"),
        ("- one", "p.yml:1:1 the file must be a mapping, not a list"),
        ("", "p.yml:1:1 the file is empty"),
    ],
)
def test_a_fault_is_told_at_its_place(text: str, fault: str) -> None:
    (found,) = faults(text)
    assert fault in found


def test_all_faults_are_told_at_once() -> None:
    assert len(faults("one: {category: x}\ntwo: {title: 1, category: saas, aliases: [one]}")) == 4


def test_an_api_on_this_machine_needs_no_tls() -> None:
    text = WHOLE + '  base_urls: {api: "http://127.0.0.1:8123/v1"}'
    assert parse_providers(text.encode(), "p").get("one").base_url("api").endswith(":8123/v1")
