"""What a session has seen, it goes on seeing: tokens in every form, across splits, and on refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosHttpResponseError

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.local.cosmos import CosmosServer


async def outcome(container: ContainerProxy, token: str, **headers: str) -> tuple[int | None, int]:
    """Return status and sub-status of a read with a session token."""

    def send(request: Any) -> None:
        request.http_request.headers.update({"x-ms-session-token": token, **headers})

    try:
        await container.read_item("a", "p", raw_request_hook=send)
    except CosmosHttpResponseError as error:
        return error.status_code, int(error.sub_status or 0)
    return 200, 0


async def home_of(container: ContainerProxy) -> tuple[str, int]:
    """Write the document and return its range and that range's LSN."""
    written = await container.upsert_item({"id": "a", "pk": "p"})
    range_id, _, lsn = written.get_response_headers()["x-ms-session-token"].partition(":-1#")
    return range_id, int(lsn)


async def test_tokens_of_every_form_are_understood_and_garbage_is_refused(container: ContainerProxy) -> None:
    home, lsn = await home_of(container)
    other = "1" if home == "0" else "0"
    for form in ("{0}:-1#{1}", "{0}:{1}", "{0}:1#{1}#1=7#2=-1", f"{other}:-1#999,{{0}}:-1#{{1}}"):
        assert await outcome(container, form.format(home, lsn)) == (200, 0)
        assert await outcome(container, form.format(home, lsn + 1)) == (404, 1002)
    for garbage in ("garbage", f"{home}:", f"{home}:-1#x", f"{home}:-1#-5", f"{home}:-1#1,", f"{home}:-1#1#1", ","):
        assert await outcome(container, garbage) == (400, 0), garbage


async def test_a_child_of_a_split_honours_what_was_seen_of_its_parents(
    server: CosmosServer, container: ContainerProxy
) -> None:
    home, lsn = await home_of(container)
    stored = server.account.container("db", "items")
    children = [child.id for child in stored.split(home)]
    for child in children:
        stored.split(child)
    assert await outcome(container, f"{home}:-1#{lsn}") == (200, 0)
    assert await outcome(container, f"{home}:-1#{lsn + 1}") == (404, 1002)
    assert {await outcome(container, f"{child}:-1#{lsn + 1}") for child in children} == {(200, 0), (404, 1002)}


async def test_a_request_may_weaken_the_accounts_consistency_and_not_strengthen_it(container: ContainerProxy) -> None:
    home, lsn = await home_of(container)
    ahead = f"{home}:-1#{lsn + 1}"
    levels = {"Eventual": (200, 0), "ConsistentPrefix": (200, 0), "Session": (404, 1002)}
    levels |= {"BoundedStaleness": (400, 0), "Strong": (400, 0), "Cosmic": (400, 0)}
    for level, expected in levels.items():
        assert await outcome(container, ahead, **{"x-ms-consistency-level": level}) == expected, level


async def test_a_refusal_tells_how_far_the_partition_is(container: ContainerProxy) -> None:
    home, lsn = await home_of(container)
    stale: Any = {"etag": '"stale"', "match_condition": MatchConditions.IfNotModified}
    calls = [
        container.read_item("missing", "p"),
        container.create_item({"id": "a", "pk": "p"}),
        container.replace_item("a", {"id": "a", "pk": "p"}, **stale),
    ]
    for call, status in zip(calls, (404, 409, 412), strict=True):
        with pytest.raises(CosmosHttpResponseError) as caught:
            await call
        assert caught.value.status_code == status
        assert caught.value.headers is not None
        assert caught.value.headers["x-ms-session-token"] == f"{home}:-1#{lsn}"
