"""Points in time that keep the spelling of their document: Cosmos DB holds text with seven digits, Postgres six."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, SupportsIndex

from pydantic_core import core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

_FRACTION = re.compile(r"\.(\d{6})\d+")
INSTANT = "crossfeed_instant"
"""The metadata that tells this type's schema from others."""
_SECONDS = len("2026-01-31T08:00:00")
SIX_DIGITS = len("2026-01-31T08:00:00.000000")


class Instant(datetime):
    """A timezone-aware datetime that remembers how a document spelled it.

    Read from a document it is spelled back to the letter (seven digits, no offset, another offset). Made by code it
    is spelled in UTC with seven digits (`2026-01-31T08:00:00.0000000Z`), so that text order in Cosmos DB is time order.
    Digits beyond the microsecond are cut, never rounded: `9999-12-31T23:59:59.9999999` stays in its year.
    A text without an offset counts as UTC. Comparison and arithmetic are those of datetime.
    """

    _text: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an ISO 8601 date and time.

        Raises:
            ValueError: the text is not one, or in UTC it lies outside of the years 1 to 9999.

        """
        self = cls._parse_utc(text)
        if self is None:
            self = cls.at(datetime.fromisoformat(_FRACTION.sub(r".\1", text)))
        self._text = text
        return self

    @classmethod
    def _parse_utc(cls, text: str) -> Self | None:
        """Read a text in UTC, or without an offset, three times as fast; None for any other."""
        try:
            self = cls.fromisoformat(text)  # cuts digits beyond the microsecond
        except ValueError:
            return None
        if self.tzinfo is None:
            return self.replace(tzinfo=UTC)
        return self if self.tzinfo is UTC else None

    @classmethod
    def at(cls, moment: datetime) -> Self:
        """Take over a datetime; a naive one counts as UTC.

        Raises:
            ValueError: in UTC it lies outside of the years 1 to 9999.

        """
        if isinstance(moment, cls):
            return moment
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        try:
            moment = moment.astimezone(UTC)  # a local time that occurs twice would equal nothing, not even itself
        except OverflowError as error:
            msg = "in UTC this lies outside of the years 1 to 9999"
            raise ValueError(msg) from error
        self = cls.combine(moment.date(), moment.timetz())
        self._text = None
        return self

    @property
    def text(self) -> str:
        """The spelling in a document."""
        return self._text if self._text is not None else spell(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _revive, (type(self), datetime.combine(self.date(), self.timetz()), self._text)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __copy__(self) -> Self:
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate from text or datetime, serialize as the remembered spelling."""
        return core_schema.no_info_plain_validator_function(
            cls._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(_text_of),
            metadata={INSTANT: cls is Instant},
        )

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, str):
            return cls.parse(value)
        if isinstance(value, datetime):
            return cls.at(value)
        msg = "expected an ISO 8601 text or a datetime"
        raise ValueError(msg)


def _revive(cls: type[Instant], moment: datetime, text: str | None) -> Instant:
    self = cls.at(moment)
    self._text = text
    return self


def _text_of(value: Instant) -> str:
    return value.text


def check_text(text: object) -> str:
    """Return a text that `Instant.parse` would read; quick where it is spelled as new documents are.

    Raises:
        ValueError: it would not.

    """
    if not isinstance(text, str):
        msg = "expected a text"
        raise ValueError(msg)  # noqa: TRY004 - pydantic reports ValueError alone
    # In UTC, or counted as that: no offset leads out of the years 1 to 9999.
    if text[-1:] == "Z":
        datetime.fromisoformat(text)
    elif datetime.fromisoformat(text).tzinfo is not None:
        Instant.parse(text)
    return text


def spell_utc(text: str) -> str:
    """Spell a time as `spell` does that Postgres spelled in UTC without an offset.

    Raises:
        ValueError: it lies outside of the years 1 to 9999, or has an offset.

    """
    if text[4:5] == "-":
        if len(text) == _SECONDS:
            return text + ".0000000Z"
        # An offset would make it longer; years before Christ end with BC.
        if text[_SECONDS] == "." and len(text) <= SIX_DIGITS and text[-1] != "C":
            return f"{text:0<27}Z"
    msg = "not a time of the years 1 to 9999 in UTC"
    raise ValueError(msg)


def spell(moment: datetime) -> str:
    """Spell a datetime the way new documents do: UTC, seven digits, `Z`."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond:06d}0Z".rjust(28, "0")
