"""The stored shapes that the example's documents share, and the older spellings of them that are still read."""

from collections.abc import Callable
from datetime import UTC, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_pascal
from pydantic_core import from_json

from core.content import check_content
from core.entity import Entity
from core.instant import Instant

UNSET = Instant(1, 1, 1, tzinfo=UTC)
"""What .NET stores for a date that was never set; documents that lack a date read as this one."""

Number = int | float
"""A JSON number that stays as it was written: `3` does not become `3.0`."""

T = TypeVar("T")


class StoredEntity(Entity):
    """An aggregate with PascalCase properties, apart from `id`."""

    model_config = ConfigDict(alias_generator=to_pascal)

    id: str = Field(alias="id")


class StoredPart(BaseModel):
    """A value inside an aggregate: PascalCase as well, and it keeps properties it does not know."""

    model_config = ConfigDict(alias_generator=to_pascal, extra="allow", validate_by_name=True, validate_by_alias=True)


class StoredEnum(StrEnum):
    """A choice that new documents hold as text and old ones as its number, counted from 0 in the order declared."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return next((member for number, member in enumerate(cls) if number == value), None)

    @property
    def spellings(self) -> tuple[str | int, ...]:
        """Every JSON value that documents use for this choice (see core.query)."""
        return (self.value, list(type(self)).index(self))


def _split(value: Any) -> Any:  # noqa: ANN401 - whatever a document holds
    if not isinstance(value, str):
        return value
    return [part for part in map(str.strip, value.split(",")) if part]


def _unpack(value: Any) -> Any:  # noqa: ANN401 - whatever a document holds
    if not isinstance(value, str):
        return value
    unpacked = from_json(value, allow_inf_nan=False) if value.strip() else {}
    check_content({"map": unpacked})
    return unpacked


Listed = Annotated[list[T], BeforeValidator(_split)]
"""A list; old documents hold it as one comma-joined text. Items of a real list are never split."""

Mapped = Annotated[dict[str, T], BeforeValidator(_unpack)]
"""A map; old documents hold it as JSON inside a text."""

IdFactory = Callable[[], str]
"""Makes a new id; comes in as a parameter wherever one is needed."""


def timespan(span: timedelta) -> str:
    """Spell a duration as .NET does: `[d.]hh:mm:ss[.fffffff]`.

    Raises:
        ValueError: the duration is negative.

    """
    if span < timedelta(0):
        msg = "a session cannot end before it started"
        raise ValueError(msg)
    minutes, seconds = divmod(span.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days = f"{span.days}." if span.days else ""
    fraction = f".{span.microseconds:06d}0" if span.microseconds else ""
    return f"{days}{hours:02d}:{minutes:02d}:{seconds:02d}{fraction}"
