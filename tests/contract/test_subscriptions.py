"""What every backend of subscriptions promises. A new one adds itself to `opener`, nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shared.accounts import Accounts
from shared.accounts.sqlite import SqliteAccounts
from shared.core.plans import Limits
from shared.core.subscription import Subscription, void
from shared.errors import Unavailable
from shared.journal import Journal
from shared.subscriptions import Revision, Subscriptions
from shared.subscriptions.sqlite import SqliteSubscriptions
from tests.support.subscriptions import subscription

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
PLANS = {"starter": Limits(daily=6, monthly=180, concurrent=1)}


class Open(NamedTuple):
    """A database that several open."""

    subscriptions: Callable[[], Subscriptions]
    accounts: Accounts


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cloud)])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one and the same database, which has the organizations acme and globex."""
    made: list[Subscriptions] = []
    if request.param == "sqlite":
        journal = Journal(tmp_path / "state.db")
        accounts: Any = SqliteAccounts(journal, PLANS)

        def opened() -> Subscriptions:
            return SqliteSubscriptions(journal)

        close = journal.close
    else:
        from shared.accounts.postgres import PostgresAccounts
        from shared.subscriptions.postgres import PostgresSubscriptions
        from tests.support.postgres import server

        database = server().database()
        accounts = PostgresAccounts(server().dsn(database), PLANS)

        def opened() -> Subscriptions:
            made.append(PostgresSubscriptions(server().dsn(database)))
            return made[-1]

        def close() -> None:
            accounts.close()
            for one in made:
                one.close()
            server().drop(database)

    for org in ("acme", "globex"):
        accounts.create_organization(org, org, "starter", NOON)
    yield Open(opened, accounts)
    close()


@pytest.fixture
def subscriptions(opener: Open) -> Subscriptions:
    return opener.subscriptions()


def revision(
    name: str, number: int = 1, of: Subscription | None = None, **changes: Any
) -> Revision:
    fields = {
        "entry": f"{name}.{number}",
        "verb": "subscription.changed",
        "key_id": "0123456789ab",
        "key_name": "ops",
        "request_id": "r1",
        "before": None,
        "after": {"seats": number},
    }
    whole = of or subscription({"seats": number}, name=name)
    return Revision(number=number, at=NOON, subscription=whole, **{**fields, **changes})


def test_a_subscription_is_as_its_newest_revision_left_it(subscriptions: Subscriptions) -> None:
    first = revision("slack")
    assert subscriptions.add("acme", [first])
    assert subscriptions.newest("acme") == [first]
    second = revision("slack", 2, void(first.subscription))
    assert subscriptions.add("acme", [second])
    assert subscriptions.newest("acme") == [second]
    assert subscriptions.history("acme", "slack") == [second, first]


def test_subscriptions_are_paged_by_their_names(subscriptions: Subscriptions) -> None:
    names = ["a", "a-b", "a.b", "a_b", "ab", "b", "z9"]
    assert subscriptions.add("acme", [revision(name) for name in reversed(names)])
    found: list[str] = []
    while page := subscriptions.newest("acme", found[-1] if found else "", 3):
        found += [one.subscription.subscription_id for one in page]
    assert found == names
    some = subscriptions.newest("acme", ids=["z9", "ab", "nobody"])
    assert [one.subscription.subscription_id for one in some] == ["ab", "z9"]
    assert subscriptions.newest("acme", ids=[]) == []


def test_a_history_is_paged_from_the_newest(subscriptions: Subscriptions) -> None:
    for number in range(1, 6):
        assert subscriptions.add("acme", [revision("slack", number)])
    assert [one.number for one in subscriptions.history("acme", "slack", limit=2)] == [5, 4]
    assert [one.number for one in subscriptions.history("acme", "slack", before=4)] == [3, 2, 1]


def test_what_does_not_follow_the_newest_is_not_added_nor_what_comes_with_it(
    subscriptions: Subscriptions,
) -> None:
    assert subscriptions.add("acme", [revision("slack"), revision("zoom")])
    before = subscriptions.newest("acme")
    for number in (1, 3):
        other = revision("slack", number, verb="another")
        assert not subscriptions.add("acme", [revision("zoom", 2), other, revision("figma")])
    assert subscriptions.newest("acme") == before
    assert subscriptions.history("acme", "figma") == []


def test_the_same_revisions_again_are_once(subscriptions: Subscriptions) -> None:
    given = [revision("slack"), revision("zoom")]
    assert subscriptions.add("acme", given)
    assert subscriptions.add("acme", given)
    assert subscriptions.add("acme", [])
    assert subscriptions.newest("acme") == given
    assert len(subscriptions.history("acme", "slack")) == 1


def test_a_change_and_its_audit_entry_are_one(opener: Open) -> None:
    port, audit = opener.subscriptions(), opener.accounts.audit
    given = [revision("slack"), revision("zoom", before={"seats": 2}, after=None)]
    assert port.add("acme", given)
    assert port.add("acme", given)
    assert not port.add("acme", [revision("slack", 5), revision("figma")])
    found = {entry.target: entry for entry in audit("acme").entries}
    assert set(found) == {"slack", "zoom"}
    slack, zoom = found["slack"], found["zoom"]
    assert (slack.entry, slack.at, slack.key_id, slack.key_name, slack.request_id, slack.verb) == (
        "slack.1",
        NOON,
        "0123456789ab",
        "ops",
        "r1",
        "subscription.changed",
    )
    assert (slack.before, slack.after) == (None, {"seats": 1})
    assert (zoom.before, zoom.after) == ({"seats": 2}, None)


def test_organizations_know_nothing_of_one_another(subscriptions: Subscriptions) -> None:
    assert subscriptions.add("acme", [revision("slack")])
    assert subscriptions.newest("globex") == []
    assert subscriptions.history("globex", "slack") == []
    assert subscriptions.add("globex", [revision("slack", verb="its own")])
    (own,) = subscriptions.newest("acme")
    assert own.verb == "subscription.changed"


@pytest.mark.parametrize("org", ["nobody", "a\0b", "' OR 1=1 --"])
def test_nobody_has_none(subscriptions: Subscriptions, org: str) -> None:
    assert subscriptions.newest(org) == []
    assert subscriptions.history(org, "slack") == []


def test_of_many_that_change_the_same_at_once_one_does(opener: Open) -> None:
    assert opener.subscriptions().add("acme", [revision("slack"), revision("zoom")])
    answers: list[bool] = []
    start = threading.Barrier(8)

    def change(number: int) -> None:
        port = opener.subscriptions()
        start.wait()
        names = ("slack", "zoom") if number % 2 else ("zoom", "slack")
        answers.append(port.add("acme", [revision(name, 2, verb=str(number)) for name in names]))

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]
    verbs = {one.verb for one in opener.subscriptions().newest("acme")}
    assert len(verbs) == 1


def test_closed_it_is_unavailable(opener: Open) -> None:
    port = opener.subscriptions()
    port.close()
    port.close()
    if not isinstance(port, SqliteSubscriptions):
        with pytest.raises(Unavailable):
            port.newest("acme")
