"""Turns the pydantic schema of a model into one that reads and dumps in a single step, without making the model.

What the quick schema returns for a JSON value is what the model would have dumped after it had read it. It promises
nothing else: it may fail where the model would not, and then the model itself is asked.

Texts, booleans, whole numbers, lists, maps, nested models and points in time are checked by type and stay what they
are. Whatever is not known here (dates, decimals, unions, validators and serializers of the user's) is a piece of the
model's own schema, read and dumped by pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import CoreConfig, CoreSchema, SchemaSerializer, SchemaValidator, core_schema

from core.content import NO_FRACTIONS, is_plain
from core.instant import INSTANT, check_text
from core.watched_validator import WatchedValidator

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEVELS = 64
"""Levels that one loose value may have; with those of the model they stay below what Cosmos DB takes."""
_MAX_DEPTH = 32
EXACT = 2**53 - 1
"""The largest integer that a double counts to."""
_NOTES = {"type", "metadata", "ref"}
_SETTINGS_THAT_CHANGE_NOTHING = {
    "title",
    "extra_fields_behavior",
    "validate_by_name",
    "validate_by_alias",
    "ser_json_inf_nan",  # what is no number is not plain
}
_LIMITS_OF_TEXT = {"pattern", "max_length", "min_length", "regex_engine", "strict"}
_LIMITS_OF_SIZE = {"min_length", "max_length", "strict"}
_TEXT: dict[str, Any] = {"type": "str"}
_ANYTHING: dict[str, Any] = {"type": "any"}
_SCALARS = {"str", "int", "float", "bool", "none"}


class NotQuickError(Exception):
    """A model cannot be read without making it."""


class QuickSchema:
    """The quick schemas of one model's fields.

    Args:
        model: the pydantic model.

    Raises:
        NotQuickError: something of the model as a whole decides what it reads or dumps.

    """

    def __init__(self, model: type[BaseModel]) -> None:
        schema: dict[str, Any] = dict(model.__pydantic_core_schema__)
        self._definitions: dict[str, dict[str, Any]] = {}
        self._open: set[str] = set()
        self.has_seen_fractions = False
        """Set when a number with a fraction was read: whether a double holds all of its digits only their text says."""
        self._any: CoreSchema = core_schema.no_info_plain_validator_function(self.plain)
        self._number: CoreSchema = core_schema.no_info_plain_validator_function(self.number)
        if schema["type"] == "definitions":
            self._definitions = {item["ref"]: item for item in schema["definitions"]}
            schema = self._resolved(schema["schema"])
        if (
            not _is_simple_model(schema)
            or model.model_validate.__func__ is not BaseModel.model_validate.__func__  # type: ignore[attr-defined]
            or model.model_dump is not BaseModel.model_dump
            or not _initializes_nothing(model)
        ):
            raise NotQuickError
        self.fields: Mapping[str, dict[str, Any]] = schema["schema"]["fields"]
        self.extras = _extras(schema)
        if any("with-info" in kinds for kinds in map(_function_kinds, (schema, *self._definitions.values()))):
            raise NotQuickError  # such a validator may look at the fields beside its own

    def field(self, name: str) -> CoreSchema:
        """Return the quick schema of a field; what it has for a default is nothing that a row would use."""
        return self._quick(self.fields[name]["schema"], 0)

    def may_be_missing(self, name: str) -> bool:
        """Whether the model does without a field, and does not look at the default that it takes instead."""
        schema = self.fields[name]["schema"]
        return schema["type"] == "default" and not schema.get("validate_default")

    def _quick(self, schema: dict[str, Any], depth: int) -> CoreSchema:
        if depth > _MAX_DEPTH:
            raise NotQuickError
        made = self._leaf(schema) or self._nested(schema, schema.keys() - _NOTES, depth + 1)
        return made or self._asked(schema)

    def _leaf(self, schema: dict[str, Any]) -> CoreSchema | None:  # noqa: PLR0911 - one per kind
        known = schema.keys() - _NOTES
        match schema["type"]:
            case "any" if not known:
                return self._any
            case "float" if not known - {"strict"}:
                return self._number
            case kind if kind in _SCHEMA_OF and not known - {"strict"}:
                return _SCHEMA_OF[kind]
            case "str" if not known - _LIMITS_OF_TEXT:
                return core_schema.str_schema(**{**_only(schema, _LIMITS_OF_TEXT), "strict": True})
            case "literal" if known == {"expected"} and _are_texts(schema["expected"]):
                return core_schema.literal_schema(schema["expected"])
            case "enum" if not known - _OF_ENUM:
                values = [member.value for member in schema["members"]]
                return core_schema.literal_schema(values) if _are_texts(values) else None
            case "union" if known == {"choices"} and all(map(_is_bare_scalar, schema["choices"])):
                kinds = {choice["type"] for choice in schema["choices"]}
                if "float" in kinds:
                    kinds -= {"int"}
                choices: list[Any] = [_SCHEMA_OF.get(kind, self._number) for kind in sorted(kinds)]
                return core_schema.union_schema(choices, mode="left_to_right")
            case "function-plain" if (schema.get("metadata") or {}).get(INSTANT):
                return INSTANT_SCHEMA
            case _:
                return None

    def _nested(  # noqa: PLR0911 - one per kind
        self, schema: dict[str, Any], known: set[str], depth: int
    ) -> CoreSchema | None:
        match schema["type"]:
            case "definition-ref" if known == {"schema_ref"} and schema["schema_ref"] not in self._open:
                self._open.add(schema["schema_ref"])  # what holds itself is read by pydantic
                try:
                    return self._quick(self._resolved(schema), depth)
                finally:
                    self._open.remove(schema["schema_ref"])
            case "default" if not known - {"schema", "default", "default_factory", "default_factory_takes_data"}:
                return self._quick(schema["schema"], depth)
            case "nullable" if known == {"schema"}:
                return core_schema.nullable_schema(self._quick(schema["schema"], depth))
            case "list" if not known - {"items_schema", *_LIMITS_OF_SIZE}:
                items = self._quick(schema.get("items_schema", _ANYTHING), depth)
                return core_schema.list_schema(items, **{**_only(schema, _LIMITS_OF_SIZE), "strict": True})
            case "dict" if not known - {"keys_schema", "values_schema", *_LIMITS_OF_SIZE}:
                keys = self._leaf(schema.get("keys_schema", _TEXT))
                values = self._quick(schema.get("values_schema", _ANYTHING), depth)
                limits = {**_only(schema, _LIMITS_OF_SIZE), "strict": True}
                return (
                    None if keys is None or keys["type"] != "str" else core_schema.dict_schema(keys, values, **limits)
                )
            case "function-before" if known == {"function", "schema"}:
                reads = WatchedValidator(schema["function"]["function"], self.plain)
                return core_schema.no_info_before_validator_function(reads, self._quick(schema["schema"], depth))
            case "model" if _is_simple_model(schema) and schema.get("post_init") is None:
                return self._model(schema, depth)
            case _:
                return None

    def _model(self, schema: dict[str, Any], depth: int) -> CoreSchema:
        fields = {
            alias_of(name, field): self._property(field["schema"], depth)
            for name, field in schema["schema"]["fields"].items()
        }
        if _extras(schema) == "allow":
            return core_schema.typed_dict_schema(fields, extra_behavior="allow", extras_schema=self._any)
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid")  # what it ignores must be plain as well

    def _property(self, schema: dict[str, Any], depth: int) -> core_schema.TypedDictField:
        """Return what a property within a nested model must be; one that is left out is nothing quick."""
        return core_schema.typed_dict_field(self._quick(schema, depth), required=True)

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        return self._definitions[schema["schema_ref"]] if schema["type"] == "definition-ref" else schema

    def plain(self, value: Any) -> Any:  # noqa: ANN401 - any JSON value
        """Return a value that is spelled in one way only.

        Raises:
            ValueError: it is not.

        """
        if not is_plain(value, _LEVELS, NO_FRACTIONS):
            if not is_plain(value, _LEVELS):
                msg = "not plain"
                raise ValueError(msg)
            self.has_seen_fractions = True
        return value

    def number(self, value: Any) -> float:  # noqa: ANN401 - any JSON value
        """Return a number, without a fraction of zero.

        Raises:
            ValueError: it is none, or too large or too small to be spelled in one way only.

        """
        if type(value) is float:
            self.has_seen_fractions = True
            if value.is_integer() and abs(value) < EXACT:
                return int(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not is_plain(value):
            msg = "not a plain number"
            raise ValueError(msg)
        return value

    def own(self, schema: dict[str, Any]) -> CoreSchema:
        """Return a piece of the model's schema as a schema of its own."""
        own: Any = schema
        return core_schema.definitions_schema(own, list(self._definitions.values())) if self._definitions else own

    def _asked(self, schema: dict[str, Any]) -> CoreSchema:
        """Let pydantic read and dump a value as the model's field would."""
        own = self.own(schema)
        validator = SchemaValidator(own)
        serializer = SchemaSerializer(own, CoreConfig(ser_json_inf_nan="constants"))

        def read(value: Any) -> Any:  # noqa: ANN401 - any JSON value
            made = validator.validate_python(self.plain(value), by_alias=True, by_name=False)
            return self.plain(serializer.to_python(made, mode="json", by_alias=True))

        return core_schema.no_info_plain_validator_function(read)


def alias_of(name: str, field: Mapping[str, Any]) -> str:
    """Return the one name that a field has in documents.

    Raises:
        NotQuickError: it is read under another name than it is dumped under, or is not always dumped.

    """
    alias = field.get("validation_alias", name)
    known = {"type", "schema", "validation_alias", "serialization_alias", "frozen", "metadata"}
    if not isinstance(alias, str) or alias != field.get("serialization_alias", name) or field.keys() - known:
        raise NotQuickError
    return alias


INSTANT_SCHEMA: CoreSchema = core_schema.no_info_plain_validator_function(check_text)
_SCHEMA_OF: dict[str, CoreSchema] = {
    "str": core_schema.str_schema(strict=True),
    "int": core_schema.int_schema(strict=True, ge=-EXACT, le=EXACT),
    "bool": core_schema.bool_schema(strict=True),
    "none": core_schema.none_schema(),
}
_OF_ENUM = {"cls", "members", "sub_type", "missing", "strict"}


def _only(schema: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name in names}


def _are_texts(values: list[Any]) -> bool:
    return all(type(value) is str for value in values)


def _is_bare_scalar(schema: Any) -> bool:  # noqa: ANN401 - a choice may be a pair with its label
    return isinstance(schema, dict) and schema["type"] in _SCALARS and not schema.keys() - _NOTES


def _is_simple_model(schema: dict[str, Any]) -> bool:
    """Whether the fields alone decide what a model reads and dumps."""
    if schema["type"] != "model" or schema["schema"]["type"] != "model-fields":
        return False
    fields = schema["schema"]
    return not (
        schema.get("config", {}).keys() - _SETTINGS_THAT_CHANGE_NOTHING
        or schema.get("custom_init")
        or schema.get("root_model")
        or fields.get("computed_fields")
        or fields.get("extras_schema")
        or schema.keys() - _NOTES - {"cls", "schema", "config", "custom_init", "root_model", "post_init"}
        or fields.keys() - _NOTES - {"fields", "model_name", "computed_fields", "extra_behavior", "extras_schema"}
    )


def _initializes_nothing(model: type[BaseModel]) -> bool:
    """Whether nothing but private attributes is made after the fields were read."""
    return model.model_post_init.__module__.startswith("pydantic.")


def _extras(schema: dict[str, Any]) -> str:
    behavior = schema["schema"].get("extra_behavior") or schema.get("config", {}).get("extra_fields_behavior")
    return str(behavior or "ignore")


def _function_kinds(schema: Any) -> set[str]:  # noqa: ANN401 - any part of a schema
    match schema:
        case {"type": "with-info", "function": _}:
            return {"with-info"}
        case dict():
            return set().union(*map(_function_kinds, schema.values()))
        case list() | tuple():
            return set().union(*map(_function_kinds, schema))
        case _:
            return set()
