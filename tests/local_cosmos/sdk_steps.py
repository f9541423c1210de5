"""What tests ask of the SDK in one word."""

from __future__ import annotations

from typing import Any

import pytest
from azure.cosmos.exceptions import CosmosHttpResponseError


async def status_of(call: Any) -> tuple[int | None, int]:
    with pytest.raises(CosmosHttpResponseError) as caught:
        await call
    return caught.value.status_code, caught.value.sub_status or 0
