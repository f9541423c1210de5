"""Says what a model makes of each property of a document, filling in what was left out, without making the model.

The quick schema promises documents of one spelling; here the spelling is kept beside the row, so any number will do,
and what a nested model fills in for a property is filled in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import CoreConfig, SchemaSerializer, SchemaValidator, core_schema

from core.projection import same_json
from core.quick_schema import INSTANT_SCHEMA, NotQuickError, QuickSchema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic_core import CoreSchema


# One that this lets pass is a day and a time that exist; of those it leaves out some, the 29th of February for one.
_USUAL_INSTANT = core_schema.str_schema(
    strict=True,
    pattern=(
        "^([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
        "-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
        r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{6,7})?Z?$"
    ),
)


class NotConstantError(Exception):
    """What a model fills in for a property is not always the same."""


class RowSchema(QuickSchema):
    """The schemas of one model's fields, for documents that passed `check_values`.

    Args:
        model: the pydantic model.

    Raises:
        NotQuickError: something of the model as a whole decides what it reads or dumps.

    """

    def __init__(self, model: type[BaseModel]) -> None:
        super().__init__(model)
        self._any = core_schema.any_schema()
        self._number = core_schema.union_schema(
            [core_schema.int_schema(strict=True), core_schema.float_schema(strict=True)], mode="left_to_right"
        )
        self._dumps = CoreConfig(ser_json_inf_nan=model.model_config.get("ser_json_inf_nan", "null"))

    def exact(self, name: str) -> Callable[[Any], Any]:
        """Return the function that reads and dumps the value of a field as the model does, whatever it is."""
        own = self.own(self.fields[name]["schema"])
        reads, dumps = SchemaValidator(own).validate_python, SchemaSerializer(own, self._dumps).to_python

        def read(value: Any) -> Any:  # noqa: ANN401 - any JSON value
            return dumps(reads(value, by_alias=True, by_name=False), mode="json", by_alias=True)

        return read

    def filled_in(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return what the model dumps for a field that the document leaves out; not to be changed.

        Raises:
            NotConstantError: that is not always the same, or the model does not do without it.

        """
        return self._filled_in(self.fields[name]["schema"])

    def _filled_in(self, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
        if schema["type"] != "default" or schema.get("validate_default"):
            raise NotConstantError
        own = self.own(schema)
        try:
            dumped = SchemaSerializer(own, self._dumps).to_python(
                _constant(schema), mode="json", by_alias=True, warnings="error"
            )
            # What stands in a row is read again: it must be what it was.
            read = SchemaValidator(own).validate_python(dumped, by_alias=True, by_name=False)
            again = SchemaSerializer(own, self._dumps).to_python(read, mode="json", by_alias=True)
        except Exception as error:
            raise NotConstantError from error
        if not same_json(dumped, again):
            raise NotConstantError
        return dumped

    def _leaf(self, schema: dict[str, Any]) -> CoreSchema | None:
        leaf = super()._leaf(schema)
        return _USUAL_INSTANT if leaf is INSTANT_SCHEMA else leaf

    def _property(self, schema: dict[str, Any], depth: int) -> core_schema.TypedDictField:
        quick = self._quick(schema, depth)
        try:
            default = self._filled_in(schema)
        except NotConstantError:
            return core_schema.typed_dict_field(quick, required=True)
        return core_schema.typed_dict_field(core_schema.with_default_schema(quick, default=default), required=False)


def _constant(schema: dict[str, Any]) -> Any:  # noqa: ANN401 - any value of a field
    """Return the default of a field."""
    if "default" in schema:
        return schema["default"]
    factory = schema.get("default_factory")
    if factory in (list, dict) or (isinstance(factory, type) and issubclass(factory, BaseModel) and _is_same(factory)):
        return factory()
    raise NotConstantError


def _is_same(model: type[BaseModel]) -> bool:
    """Whether the models that are made of nothing are all the same."""
    try:
        schema = RowSchema(model)
        for name in schema.fields:
            schema.filled_in(name)
    except (NotQuickError, NotConstantError):
        return False
    return True


def may_change(schema: Any) -> bool:  # noqa: ANN401 - any part of a schema
    """Whether anything in a schema may make another value of one, but for filling in what was left out."""
    match schema:
        case {"type": "function-plain" | "function-before"}:
            return True
        case dict():
            return any(map(may_change, schema.values()))
        case list() | tuple():
            return any(map(may_change, schema))
        case _:
            return False
