"""A host that takes texts for dates changes nothing of what arrives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from core.cosmos.canaries import DATES, write_canaries
from core.domain.mappings import ACCOUNTS
from tests.functions.newtonsoft import respelled
from tests.integration.mirror_steps import same

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.content import Document
    from tests.functions.conftest import Installation
    from tests.integration.mirror_steps import Steps

_DATED = "2026-01-31T08:00:00.1230000Z"


@pytest.fixture(autouse=True)
async def respelling_host(installation: Installation) -> None:
    """A host that does it, known by its canaries."""
    await _through(installation, respelled, canaries=True)
    assert await _dates(installation) == "rewritten"


def _account(id_: str, **properties: Any) -> Document:
    return {"id": id_, "Email": f"{id_}@example.com", "CreatedAt": _DATED, **properties}


async def _through(
    installation: Installation, spell: Callable[[Any], Any], *documents: Document, canaries: bool = False
) -> None:
    """Let documents through a host that spells them in its way."""
    listeners = await installation.listeners("Accounts")
    if canaries:
        await write_canaries(installation.store, ACCOUNTS, (0.0, 2))
    container = installation.store.container(ACCOUNTS)
    await asyncio.gather(*(container.upsert_item(dict(document)) for document in documents))
    for listener in listeners:
        listener.spell = spell
    await asyncio.gather(*(listener.drain() for listener in listeners))
    assert [listener.lost + listener.failed for listener in listeners] == [[], []]


async def _dates(installation: Installation) -> str:
    _, status = await installation.worker.request("status")
    return str(status["dates"])


def test_the_canary_shows_every_way_of_respelling() -> None:
    assert [respelled(text) == text for text in DATES] == [False, False, False, True]


async def test_dates_that_a_host_has_respelled_arrive_as_they_were_written(
    installation: Installation, steps: Steps
) -> None:
    document = _account("dated", Legacy=["2026-01-31T08:00:00+05:45", {"At": "2026-01-31T08:00:00.10"}])
    assert respelled(document) != document
    await _through(installation, respelled, document)
    assert same(await steps.content("dated"), document)


async def test_a_document_whose_own_key_looks_like_a_date_arrives_under_its_key(
    installation: Installation, steps: Steps
) -> None:
    document = _account("2026-01-31T08:00:00.50")
    await _through(installation, respelled, document)
    assert same(await steps.content("2026-01-31T08:00:00.50"), document)
    assert await steps.content("2026-01-31T08:00:00.5") is None


async def test_what_is_gone_when_it_is_read_again_does_not_hold_up_the_others(
    installation: Installation, steps: Steps
) -> None:
    listeners = await installation.listeners("Accounts")
    container = installation.store.container(ACCOUNTS)
    for listener in listeners:
        listener.spell = lambda document: {**respelled(document), "id": document["id"].replace("there", "gone")}
    await asyncio.gather(*(container.upsert_item(_account(id_)) for id_ in ("is-there", "2026-still")))
    await asyncio.gather(*(listener.drain() for listener in listeners))
    assert [listener.lost + listener.failed for listener in listeners] == [[], []]
    assert await steps.content("is-gone") is None
    assert await steps.content("2026-still") is not None


async def test_canaries_tell_what_the_host_does_and_spare_the_reads_once_it_does_nothing(
    installation: Installation, steps: Steps
) -> None:
    await _through(installation, lambda document: document, canaries=True)
    assert await _dates(installation) == "unaltered"
    # Believed from now on: a host that respelled after all would be believed, too, and that is how it can be seen.
    await _through(installation, lambda document: {**document, "DisplayName": "as shown"}, _account("believed"))
    assert (await steps.content("believed") or {})["DisplayName"] == "as shown"
