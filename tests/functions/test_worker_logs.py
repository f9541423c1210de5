"""What a worker says to the host, which Azure keeps for months: neither payloads nor secrets, whatever fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from core.postgres.dead_letters import Direction
from tests.functions.conftest import environment_of
from tests.functions.host import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from tests.functions.conftest import Installation

MARK = "zq7content"
_SYSTEM = {"_ts": 1, "_lsn": 5, "_etag": "e", "_rid": "r"}


async def test_a_worker_says_nothing_of_what_it_carries(installation: Installation, tmp_path: Path) -> None:
    environment = environment_of(
        installation.settings,
        CROSSFEED_LOG_LEVEL="debug",
        CROSSFEED_COSMOS_DATABASE=installation.settings.cosmos_database,
    )
    documents: list[dict[str, Any]] = [
        {"id": "marked-type", "Email": [MARK], **_SYSTEM},
        {"id": "marked-moment", "CreatedAt": MARK, **_SYSTEM},
        {"id": "marked-nul", "DisplayName": f"{MARK}\x00", **_SYSTEM},
        {"id": "marked-good", "DisplayName": MARK, **_SYSTEM},
        {"id": 7, "DisplayName": MARK, **_SYSTEM},
    ]
    said: list[Any] = []
    with (tmp_path / "errors").open("wb") as errors:
        worker = await Worker.start(environment, installation.deployed, errors)
        try:
            for payload in (json.dumps(documents), f'[{{"id": "a", "Email": "{MARK}', f'{{"Email": "{MARK}"}}'):
                said.append(await worker.invoke("mirror_Accounts", "payload", {"json": payload}))
                said.append(await worker.invoke("consume_events", "payload", {"json": payload}))
            letters = {"reason": MARK, "numbers": MARK, "since": MARK}
            said.append(await worker.request("dead_letters", query=letters))
            said.append(await worker.request("dead_letters_discard", "POST", body={"id": {"x": MARK}}))
            said.append(await worker.request("phase_plan", "POST", body={"way": MARK}))
            said.append(await worker.request("dead_letters", query={"direction": Direction.TO_POSTGRES.value}))
            said.append(await worker.request("status"))
        finally:
            await worker.stop()
    everything = json.dumps(said) + (tmp_path / "errors").read_text()
    assert "mirror.dead_lettered" in everything
    key = installation.settings.cosmos_key
    assert key is not None
    for secret in (MARK, key.get_secret_value(), str(urlsplit(installation.settings.require_postgres()).password)):
        assert secret not in everything
