"""The messages between host and worker, as the worker library makes and reads them: it asks for names, not for gRPC."""

from __future__ import annotations

from enum import IntEnum
from types import SimpleNamespace
from typing import Any, ClassVar


class Message:
    """A message with the fields that its class names, or with any if it names none."""

    FIELDS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **fields: Any) -> None:
        if unknown := set(fields) - set(self.FIELDS or fields):
            msg = f"{type(self).__name__} has no {', '.join(sorted(unknown))}"
            raise ValueError(msg)
        self.__dict__.update(dict.fromkeys(self.FIELDS), **fields)


class TypedData(Message):
    FIELDS = (
        *("string", "json", "bytes", "stream", "http", "int", "double", "model_binding_data"),
        *("collection_bytes", "collection_string", "collection_double", "collection_sint64"),
        "collection_model_binding_data",
    )

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802 - the name in protobuf
        return next((name for name in self.FIELDS if getattr(self, name) is not None), None)


class Direction(IntEnum):
    IN = 0
    OUT = 1
    INOUT = 2


class DataType(IntEnum):
    undefined = 0
    string = 1
    binary = 2
    stream = 3


class BindingInfo(Message):
    FIELDS = ("type", "direction", "data_type")
    Direction = Direction
    DataType = DataType
    inout, out, undefined = Direction.INOUT, Direction.OUT, DataType.undefined


def _message(name: str, *fields: str, **constants: int) -> type[Message]:
    return type(name, (Message,), {"FIELDS": fields, **constants})


_ANY = (
    *("WorkerInitResponse", "FunctionMetadataResponse", "FunctionLoadResponse", "InvocationResponse"),
    *("FunctionEnvironmentReloadResponse", "RpcFunctionMetadata"),
    *("NullableBool", "NullableDouble", "NullableString", "NullableTimestamp"),
)

PROTOS = SimpleNamespace(
    TypedData=TypedData,
    BindingInfo=BindingInfo,
    StatusResult=_message("StatusResult", "status", "result", "exception", "logs", Failure=0, Success=1, Cancelled=2),
    RpcException=_message("RpcException", "source", "stack_trace", "message", "is_user_exception", "type"),
    RpcRetryOptions=_message(
        *("RpcRetryOptions", "max_retry_count", "delay_interval", "minimum_interval", "maximum_interval"),
        "retry_strategy",
    ),
    RpcHttp=_message(
        *("RpcHttp", "method", "url", "headers", "body", "params", "status_code", "query"),
        *("enable_content_negotiation", "cookies", "rawBody"),
    ),
    RpcHttpCookie=_message("RpcHttpCookie"),
    ParameterBinding=_message("ParameterBinding", "name", "data", "rpc_shared_memory"),
    WorkerMetadata=_message(
        *("WorkerMetadata", "runtime_name", "runtime_version", "worker_version", "worker_bitness"), "custom_properties"
    ),
    **{name: _message(name) for name in _ANY},
)


def request(**fields: Any) -> SimpleNamespace:
    """Return a request of the host."""
    return SimpleNamespace(
        name="", request=SimpleNamespace(**fields), properties={"protos": PROTOS, "host": "127.0.0.1"}
    )


def typed(data: dict[str, Any]) -> TypedData:
    """Return what a binding is handed: {"json": text}, or {"http": {"method", "url", "query", "body"}}."""
    if "http" not in data:
        return TypedData(**data)
    http = data["http"]
    return TypedData(
        http=SimpleNamespace(
            method=http["method"],
            url=http["url"],
            headers={"content-type": "application/json"},
            params={},
            query=http.get("query", {}),
            body=TypedData(bytes=http.get("body", "").encode()),
        )
    )


def plain(value: Any) -> Any:
    """Return a message as JSON values."""
    match value:
        case Message():
            return {name: plain(item) for name, item in vars(value).items() if item is not None}
        case list() | tuple():
            return [plain(item) for item in value]
        case dict():
            return {str(name): plain(item) for name, item in value.items()}
        case bytes():
            return value.decode()
        case str() | int() | float() | None:
            return value
        case _:
            return str(value)
