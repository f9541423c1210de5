"""Gives the tests of whoever uses Crossfeed the fixture `crossfeed_cosmos`, an account that is empty in every test.

pytest loads this module in every run where Crossfeed is installed, so it loads nothing else until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.local.embedded_cosmos import EmbeddedCosmos


@pytest.fixture(scope="session")
def _crossfeed_cosmos() -> Iterator[EmbeddedCosmos]:
    """Serve one account for the whole run (with pytest-xdist: of this worker)."""
    try:
        from core.local.embedded_cosmos import embedded_cosmos  # noqa: PLC0415 - slow to load
    except ImportError as error:
        pytest.fail(
            f"the fixture crossfeed_cosmos needs the extra 'local': pip install 'crossfeed[local]' ({error})",
            pytrace=False,
        )
    with embedded_cosmos() as cosmos:
        yield cosmos


@pytest.fixture
def crossfeed_cosmos(_crossfeed_cosmos: EmbeddedCosmos) -> EmbeddedCosmos:
    """An empty Azure Cosmos DB account: `endpoint` and `key` for the SDK, `clock`, `faults` and `split` for tests."""
    _crossfeed_cosmos.reset()
    return _crossfeed_cosmos
