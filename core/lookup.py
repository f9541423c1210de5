"""Says by which fields, beside its identity, entities of one type are looked up: those may be cached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lookup:
    """A look-up of the first entity with a value in a field; `Equals(field, value, ignore_case)` with limit 1.

    Args:
        field: the model's name of a text field.
        ignore_case: whether the look-ups regard no case.

    """

    field: str
    ignore_case: bool = False

    def spelled(self, value: object) -> str | None:
        """Return one spelling of all values that are equal to the stores; None where they might see it otherwise.

        What lower case is beyond ASCII depends on a database's locale.
        """
        if type(value) is not str or not value:
            return None
        if not self.ignore_case:
            return value
        return value.lower() if value.isascii() else None

    def touched(self, value: object) -> str | None:
        """Return the spelling of look-ups that a written value may answer, as a database with a wide locale sees it."""
        if not isinstance(value, str):
            return None
        text = str.__str__(value)  # of an enum, or of a text of another class, what is written
        return self.spelled(text.lower() if self.ignore_case else text)
