"""Settings: every problem is named by its variable, and no value is ever shown."""

from __future__ import annotations

import pytest

from core.domain.mappings import MAPPINGS
from core.errors import ConfigurationError, MappingError
from core.mappings import Mappings
from core.phases import Phase
from core.settings import Settings

KNOWN = Mappings(MAPPINGS)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os  # noqa: PLC0415 - for this fixture alone

    for name in [name for name in os.environ if name.startswith("CROSSFEED_")]:
        monkeypatch.delenv(name)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSFEED_POSTGRES_DSN", "postgresql://me@there/db")
    monkeypatch.setenv("CROSSFEED_PHASE", "dual_write_postgres_read")
    monkeypatch.setenv("CROSSFEED_MIRROR_PAGE_SIZE", "7")
    settings = Settings.load()
    assert settings.require_postgres() == "postgresql://me@there/db"
    assert settings.phase is Phase.DUAL_WRITE_POSTGRES_READ
    assert settings.mirror_page_size == 7


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSFEED_COSMOS_DATABASE", "of the environment")
    assert Settings.load(cosmos_database="mine").cosmos_database == "mine"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CROSSFEED_MIRROR_PAGE_SIZE", "hunter2"),
        ("CROSSFEED_MIRROR_POLL_MS", "0"),
        ("CROSSFEED_PHASE", "hunter2"),
        ("CROSSFEED_LOG_LEVEL", "hunter2"),
        ("CROSSFEED_COSMOS_DATABASE", ""),
        ("CROSSFEED_TOMBSTONE_TTL_S", "60"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name):
        Settings.load()


def test_a_wrong_value_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSFEED_MIRROR_PAGE_SIZE", "hunter2")
    monkeypatch.setenv("CROSSFEED_COSMOS_KEY", "hunter3")
    with pytest.raises(ConfigurationError) as refused:
        Settings.load()
    assert "hunter" not in str(refused.value)


def test_secrets_do_not_appear_in_the_representation() -> None:
    settings = Settings.load(postgres_dsn="postgresql://me:hunter2@there/db", cosmos_key="hunter3")
    assert "hunter" not in repr(settings) + str(settings)


def test_what_is_not_set_is_asked_for_by_name() -> None:
    settings = Settings.load()
    with pytest.raises(ConfigurationError, match="CROSSFEED_POSTGRES_DSN is not set"):
        settings.require_postgres()
    with pytest.raises(ConfigurationError, match="CROSSFEED_COSMOS_ENDPOINT is not set"):
        settings.require_cosmos()
    with pytest.raises(ConfigurationError, match="CROSSFEED_MAPPINGS is not set"):
        settings.load_mappings()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("core.domain.mappings", "not of the form package.module:attribute"),
        (":MAPPINGS", "not of the form package.module:attribute"),
        ("core.domain.nowhere:MAPPINGS", "cannot import core.domain.nowhere"),
        ("core.domain.mappings:NOTHING", "has no such attribute"),
        ("core.domain.mappings:ACCOUNTS", "is not a list of EntityMapping"),
        ("core.phases:__name__", "is not a list of EntityMapping"),
    ],
)
def test_wrong_mappings_are_named(value: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Settings.load(mappings=value).load_mappings()


def test_mappings_are_found_by_their_name() -> None:
    found = Settings.load(mappings="core.domain.mappings:MAPPINGS").load_mappings()
    assert [mapping.name for mapping in found] == [mapping.name for mapping in KNOWN]


def test_a_wrong_mapping_is_a_configuration_error() -> None:
    assert issubclass(MappingError, ConfigurationError)
