"""The sample documents of the example: as many as asked for, the same for a seed, with every awkward case."""

from __future__ import annotations

import json

from core.content import ENVELOPE
from core.domain import awkward
from core.domain.mappings import MAPPINGS
from core.domain.samples import sample_documents
from core.projection import same_json
from tests.unit.strategies import through_a_row


def test_samples_are_counted_and_the_same_for_the_same_seed() -> None:
    samples = sample_documents(300, seed=7)
    assert sum(map(len, samples.values())) == 300
    assert samples == sample_documents(300, seed=7)
    assert samples != sample_documents(300, seed=8)
    assert {name: len(documents) for name, documents in sample_documents(0, seed=7).items()} == {
        name: len(documents) for name, documents in awkward.documents().items()
    }


def test_samples_are_foreign_acceptable_distinct_and_come_back_from_their_rows() -> None:
    samples = sample_documents(400, seed=1)
    assert samples.keys() == {mapping.container for mapping in MAPPINGS}
    for mapping in MAPPINGS:
        documents = samples[mapping.container]
        assert len({mapping.identity(document) for document in documents}) == len(documents)
        for document in documents:
            mapping.check(document)
            assert ENVELOPE not in document
            for returned in through_a_row(mapping, document):
                assert same_json(returned, document)


def test_samples_hold_every_awkward_case() -> None:
    samples = sample_documents(0, seed=1)
    accounts, profiles = samples["Accounts"], samples["UserProfiles"]
    sessions, signups = samples["GameSessions"], samples["PendingSignups"]
    everything = [document for documents in samples.values() for document in documents]
    text = json.dumps(everything, ensure_ascii=False)
    assert {"acc-1", awkward.DASHED, awkward.PLAIN} <= {account["id"] for account in accounts}
    assert all(json.dumps(name, ensure_ascii=False) in text for name in awkward.NAMES)
    assert "9999-12-31T23:59:59.9999999" in text
    assert {type(session.get("Status")) for session in sessions} >= {int, str}
    assert any("Discriminator" in one for one in everything)
    assert any("$type" in one for one in everything)
    assert any(isinstance(session.get("PlayerNames"), str) for session in sessions)
    assert any(isinstance(session.get("CompassValues"), str) for session in sessions)
    emails = [account["Email"] for account in accounts if "Email" in account]
    assert len(set(emails)) > len({email.lower() for email in emails})
    assert len({signup["email"] for signup in signups}) > len({signup["email"].lower() for signup in signups})
    known = {account["id"] for account in accounts}
    assert {session["accountId"] in known for session in sessions} == {True, False}
    assert next(iter(samples)) == "GameSessions"  # so that sessions arrive before their accounts
    assert any(profile["id"] == profile.get("Name") or "Name" not in profile for profile in profiles)
