"""Lists the built-in functions by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.local.cosmos.errors import bad_request, unsupported
from core.local.cosmos.sql.functions_array import ARRAY_FUNCTIONS
from core.local.cosmos.sql.functions_date import DATE_FUNCTIONS
from core.local.cosmos.sql.functions_math import MATH_FUNCTIONS
from core.local.cosmos.sql.functions_text import TEXT_FUNCTIONS
from core.local.cosmos.sql.functions_type import TYPE_FUNCTIONS

if TYPE_CHECKING:
    from core.local.cosmos.sql.signature import Function

_FUNCTIONS: Final[dict[str, Function]] = {
    **TEXT_FUNCTIONS,
    **TYPE_FUNCTIONS,
    **ARRAY_FUNCTIONS,
    **MATH_FUNCTIONS,
    **DATE_FUNCTIONS,
}
_ABSENT: Final = {
    "ST_": "spatial functions",
    "VECTOR": "vector search",
    "FULLTEXT": "full-text search",
    "RRF": "hybrid search",
    "DATETIMEFORMAT": "formatting dates",
    "DOCUMENTID": "internal document ids",
    "MAKELIST": "aggregates that make arrays",
    "MAKESET": "aggregates that make arrays",
}


def function_named(name: str, count: int) -> Function:
    """Return the function of an upper-case name that takes `count` arguments.

    Raises:
        CosmosError: 400 for a function that is not known or not supported, or a wrong number of arguments.
    """
    function = _FUNCTIONS.get(name)
    if function is None:
        for start, feature in _ABSENT.items():
            if name.startswith(start):
                message = f"the function {name} ({feature})"
                raise unsupported(message)
        message = f"'{name}' is not a recognized built-in function name."
        raise bad_request(message)
    if not function.minimum <= count <= function.maximum:
        message = f"The {name} function does not take {count} argument(s)."
        raise bad_request(message)
    return function
