"""The command `crossfeed dead-letters`, as whoever is on call uses it."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from core.settings import Settings
    from tests.e2e.conftest import Run

LETTERS = r"""
    INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reference, reason, document,
        attempts, first_at, last_at, seq)
    VALUES
        ('to_cosmos', 'refused', 'Account', '["a-1"]', 'a-1', '', 'The Document is too large', NULL, 8,
            '2026-01-01 10:00Z', '2026-01-01 11:00Z', NULL),
        ('to_cosmos', 'event', 'Account', '["a-1"]', 'a-1', 'e-1', 'refused (400)', '{"id":"e-1","n":1.50}', 8,
            '2026-01-02 10:00Z', '2026-01-02 11:00Z', 5),
        ('to_postgres', 'rogue_write', 'UserProfile', '["u-1"]', 'u-1', '', E'foreign \x1b[31m\n\u009b',
            '{"a":"\u0000"}', 1, clock_timestamp(), clock_timestamp(), NULL)
"""


@pytest.fixture
def letters(settings: Settings) -> None:
    execute(settings, LETTERS)


def execute(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(settings.require_postgres(), autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description is not None else []


def numbers(settings: Settings) -> list[int]:
    return [number for (number,) in execute(settings, "SELECT number FROM crossfeed.dead_letter ORDER BY 1")]


def test_an_empty_list_is_no_failure(run: Run) -> None:
    assert run("dead-letters", "list")[:2] == (0, "")
    assert run("dead-letters", "discard", "--all", "--json")[0] == 0


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), [1, 2, 3]),
        (("--direction", "to_postgres"), [3]),
        (("--kind", "event"), [2]),
        (("--entity", "Account"), [1, 2]),
        (("--id", "u-1"), [3]),
        (("--id", "\udcff"), []),
        (("--reason", "too LARGE"), [1]),
        (("--since", "1h"), [3]),
        (("--since", "2026-01-02T12:00+01:00"), [2, 3]),
        (("--entity", "Account", "--kind", "refused", "--since", "2026-01-01"), [1]),
    ],
    ids=str,
)
def test_every_filter_narrows_the_list(run: Run, letters: None, options: tuple[str, ...], found: list[int]) -> None:
    code, output, _ = run("dead-letters", "list", *options, "--json")
    listed = json.loads(output)
    assert (code, listed["count"], [letter["number"] for letter in listed["letters"]]) == (0, len(found), found)


def test_the_list_is_cut_and_says_so_and_steers_no_terminal(run: Run, letters: None) -> None:
    _, output, _ = run("dead-letters", "list", "--limit", "1")
    assert output == (
        "1  to_cosmos refused  Account a-1  attempts 8, last 2026-01-01T11:00:00+0000  The Document is too large\n"
        "2 more; see --limit\n"
    )
    _, output, _ = run("dead-letters", "list", "--kind", "rogue_write")
    assert r"foreign \u001b[31m\n\u009b" in output


def test_a_letter_is_shown_with_the_document_that_it_holds_to_the_character(run: Run, letters: None) -> None:
    code, output, _ = run("dead-letters", "show", "2")
    assert code == 0
    assert output.splitlines()[-1] == '{"id":"e-1","n":1.50}'
    assert "first_at: 2026-01-02T10:00:00+00:00" in output
    _, output, _ = run("dead-letters", "show", "2", "--json")
    assert "1.50" in output
    assert json.loads(output)["document"] == {"id": "e-1", "n": 1.5}
    assert json.loads(run("dead-letters", "show", "3", "--json")[1])["document"] == {"a": "\0"}
    code, _, errors = run("dead-letters", "show", "99")
    assert (code, errors.strip()) == (1, "error: there is no dead letter 99")


def test_nothing_is_changed_without_a_yes(
    run: Run, settings: Settings, letters: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer, code, left in (("n\n", 1, [1, 2, 3]), ("", 1, [1, 2, 3]), ("y\n", 0, [1, 2])):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        found, _, errors = run("dead-letters", "discard", "3")
        assert (found, numbers(settings)) == (code, left)
        assert "discard 1 dead letter?" in errors


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Run, settings: Settings, letters: None) -> None:
    code, output, _ = run("dead-letters", "replay", "--all", "--dry-run")
    assert code == 1
    assert "3: not done: it was written to Cosmos DB while Postgres was the primary" in output
    assert output.endswith("would replay 2, not 1\n")
    code, output, _ = run("dead-letters", "discard", "--all", "--dry-run", "--json")
    assert (code, json.loads(output)) == (0, {"dry_run": True, "done": [1, 2, 3], "refused": []})
    assert numbers(settings) == [1, 2, 3]
    assert execute(settings, "SELECT 1 FROM crossfeed.parked") == []


def test_what_is_replayed_is_parked_and_due(run: Run, settings: Settings, letters: None) -> None:
    code, output, _ = run("dead-letters", "replay", "--direction", "to_cosmos", "--yes")
    assert (code, output) == (0, "replay 2, not 0\n")
    assert numbers(settings) == [3]
    assert execute(
        settings, "SELECT seq, event_id, attempts, retry_at <= now() FROM crossfeed.parked ORDER BY seq NULLS FIRST"
    ) == [(None, None, 8, True), (5, "e-1", 8, True)]


def test_what_is_parked_is_listed_with_its_reason_and_when_it_is_tried_again(run: Run, settings: Settings) -> None:
    execute(
        settings,
        r"""
        INSERT INTO crossfeed.parked (slot, entity, partition_key, id, seq, event_id, event, reason, attempts, retry_at)
        VALUES (16, 'Account', '["a"]', 'a', 6, 'e-6', '{}', 'an earlier one', 0, 'infinity'),
            (16, 'Account', '["a"]', 'a', 5, 'e-5', '{}', 'too large', 2, now() + interval '90.4 s'),
            (0, 'Other', '["b"]', 'b', NULL, NULL, NULL, 'too deep', 1, now() - interval '1 s');
        INSERT INTO crossfeed.mirror_parked (entity, partition_key, id, etag, ts, lsn, reason, retry_at)
        VALUES ('Account', '["a"]', 'a', '', 1, 1, 'no e-mail left', now());
        INSERT INTO crossfeed.inbox_parked (handler, subject, event_id, sequence, ts, event, reason, attempts, retry_at)
        VALUES ('welcome', 'Account/a', 'e-5', 5, 1, '{}', 'out of cards', 1, now()),
            ('welcome', 'Game/g/["a"]', 'e-6', 6, 1, '{}', 'out of cards', 1, now())
        """,
    )
    code, output, _ = run("dead-letters", "parked")
    assert (code, output.splitlines()) == (
        0,
        [
            "to_cosmos  Account a event e-5  attempts 2, again in 90 s  too large",
            "to_cosmos  Account a event e-6  attempts 0, waits  an earlier one",
            "to_cosmos  Other b  attempts 1, again in 0 s  too deep",
            "to_postgres  Account a  attempts 1, again in 0 s  no e-mail left",
            "to_postgres  Account a event welcome:e-5  attempts 1, again in 0 s  out of cards",
            "to_postgres  Game g event welcome:e-6  attempts 1, again in 0 s  out of cards",
        ],
    )
    _, output, _ = run("dead-letters", "parked", "--entity", "Account", "--id", "a", "--limit", "1", "--json")
    [found] = json.loads(output)["parked"]
    assert (found["direction"], found["reference"], found["attempts"], found["id"]) == ("to_cosmos", "e-5", 2, "a")
    _, output, _ = run("dead-letters", "parked", "--json")
    keys = [found["partition_key"] for found in json.loads(output)["parked"]]
    assert keys == ['["a"]', '["a"]', '["b"]', '["a"]', '["a"]', '["a"]']


def test_the_letter_of_an_event_that_a_handler_failed_at_is_listed_shown_and_replayed(
    run: Run, settings: Settings
) -> None:
    execute(
        settings,
        """
        INSERT INTO crossfeed.dead_letter (direction, kind, entity, partition_key, id, reference, seq, reason, document)
        VALUES ('to_postgres', 'event', 'Account', '["a"]', 'a', 'welcome:e-1', 7, 'out of cards',
            '{"id": "e-1", "subject": "Account/a", "sequence": "00000000000000000003", "type": "account.registered"}')
        """,
    )
    _, output, _ = run("dead-letters", "list", "--kind", "event", "--direction", "to_postgres")
    assert "to_postgres event  Account a event welcome:e-1  attempts 1" in output
    _, output, _ = run("dead-letters", "show", "1", "--json")
    assert json.loads(output)["document"]["id"] == "e-1"
    assert run("dead-letters", "replay", "1", "--yes")[0] == 0
    assert execute(
        settings,
        "SELECT place, handler, subject, event_id, sequence, attempts, retry_at <= now() FROM crossfeed.inbox_parked",
    ) == [(7, "welcome", "Account/a", "e-1", 3, 1, True)]


def test_only_as_many_as_the_limit_and_the_oldest_first(run: Run, settings: Settings, letters: None) -> None:
    assert run("dead-letters", "discard", "--all", "--limit", "2", "--yes")[0] == 0
    assert numbers(settings) == [3]


def test_a_letter_that_is_not_there_is_named(run: Run, settings: Settings, letters: None) -> None:
    code, output, _ = run("dead-letters", "discard", "1", "99", "--yes")
    assert (code, output) == (1, "99: not done: there is no such letter\ndiscard 1, not 1\n")
    assert numbers(settings) == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("discard", "--yes"), "say --all"),
        (("replay", "--yes"), "say --all"),
        (("list", "--since", "yesterday"), "is neither a date and time"),
        (("list", "--direction", "west"), "is none of to_cosmos, to_postgres"),
        (("discard", "one"), "as an integer"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_before_anything_happens(
    run: Run, settings: Settings, letters: None, arguments: tuple[str, ...], said: str
) -> None:
    code, _, errors = run("dead-letters", *arguments)
    assert code == 2
    assert said in " ".join(errors.replace("│", " ").split())
    assert numbers(settings) == [1, 2, 3]
