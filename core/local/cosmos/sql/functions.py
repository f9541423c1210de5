"""Lists the built-in functions by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.local.cosmos.sql.functions_array import ARRAY_FUNCTIONS
from core.local.cosmos.sql.functions_date import DATE_FUNCTIONS
from core.local.cosmos.sql.functions_math import MATH_FUNCTIONS
from core.local.cosmos.sql.functions_text import TEXT_FUNCTIONS
from core.local.cosmos.sql.functions_type import TYPE_FUNCTIONS

if TYPE_CHECKING:
    from core.local.cosmos.sql.signature import Function

FUNCTIONS: Final[dict[str, Function]] = {
    **TEXT_FUNCTIONS,
    **TYPE_FUNCTIONS,
    **ARRAY_FUNCTIONS,
    **MATH_FUNCTIONS,
    **DATE_FUNCTIONS,
}
