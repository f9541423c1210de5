"""Domain events: what a model says has happened, as CloudEvents 1.0 envelopes that both stores carry by value."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from pydantic import BaseModel, ConfigDict, ValidationError

from core.content import ENVELOPE, ENVELOPE_BYTES, MAX_DOCUMENT_BYTES, Document, check_content
from core.errors import DocumentRefusedError, MappingError
from core.identity import MAX_PARTITION_KEY_BYTES, Identity, key_text
from core.tracing import traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Upcaster = Callable[[Document], Document]

CARRIED = "events"
"""The key, within our property of a document, of the events that it carries while Cosmos DB is primary."""

_SPEC = "1.0"
_SCHEMA = "urn:crossfeed:event:"


class Event(BaseModel):
    """The base of domain events. A name that is never reused, and a version that grows when the shape changes:

    class AccountRegistered(Event, name="account.registered"):
        email: str
    """  # noqa: D415 - the example belongs to the sentence

    model_config = ConfigDict(
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        ser_json_inf_nan="constants",  # else NaN would be written as null
    )

    event_name: ClassVar[str | None] = None
    event_version: ClassVar[int] = 1

    def __init_subclass__(cls, *, name: str | None = None, version: int = 1, **kwargs: Any) -> None:  # noqa: ANN401 - pydantic's
        """Name the event; a class without a name is a base of others and cannot be recorded."""
        super().__init_subclass__(**kwargs)
        cls.event_name = name
        cls.event_version = version


@dataclass(frozen=True, slots=True)
class EventMaker:
    """Makes envelopes.

    Args:
        clock: seconds since 1970.
        new_id: a new id for each event, unique for ever.

    """

    clock: Callable[[], float] = time.time
    new_id: Callable[[], str] = field(default=lambda: str(uuid.uuid4()))

    def envelope(self, event: Event, identity: Identity) -> Document:
        """Return the CloudEvents 1.0 envelope of an event of the aggregate `identity`, as a JSON object.

        Raises:
            MappingError: the event's class has no name.
            DocumentRefusedError: one of the stores cannot hold it.

        """
        name = _name(type(event))
        try:
            data = event.model_dump(mode="json", by_alias=True, warnings="error")
        except ValueError:
            msg = f"the event {name} cannot be written as the JSON that its model describes"
            raise DocumentRefusedError(msg) from None  # pydantic quotes values
        made: Document = {
            "specversion": _SPEC,
            "id": self.new_id(),
            "source": f"/crossfeed/{identity.entity}",
            "type": name,
            "subject": subject_of(identity),
            "time": datetime.fromtimestamp(self.clock(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "dataschema": f"{_SCHEMA}{name}:{type(event).event_version}",
            "data": data,
        }
        if parent := traceparent():
            made["traceparent"] = parent
        check_content(made)
        return made


class EventRegistry:
    """Reads envelopes back into events, old versions by way of upcasters.

    Args:
        classes: the newest class of each event.
        upcasters: by (name, version): a function that makes the data of that version the data of the next one.

    Raises:
        MappingError: a class without a name, two of one name, or a version without an upcaster.

    """

    def __init__(
        self, classes: Iterable[type[Event]], upcasters: Mapping[tuple[str, int], Upcaster] | None = None
    ) -> None:
        self._upcasters = dict(upcasters or {})
        self._classes: dict[str, type[Event]] = {}
        for event_class in classes:
            name = _name(event_class)
            if name in self._classes:
                msg = f"two classes of events are called {name!r}"
                raise MappingError(msg)
            for version in range(1, event_class.event_version):
                if (name, version) not in self._upcasters:
                    msg = f"{name!r} is at version {event_class.event_version}: version {version} has no upcaster"
                    raise MappingError(msg)
            self._classes[name] = event_class

    def holds(self, event_class: type[Event]) -> bool:
        """Whether it reads events as this class."""
        return self._classes.get(event_class.event_name or "") is event_class

    def event(self, envelope: Document) -> Event:
        """Read an event from its envelope.

        Raises:
            MappingError: no class has its name, or it was written by a newer version of this program.
            DocumentRefusedError: it is no envelope of ours, or its data do not fit the class.

        """
        name, version = _schema_of(envelope)
        event_class = self._classes.get(name)
        if event_class is None:
            msg = f"no event is called {name!r}; there are {', '.join(sorted(self._classes))}"
            raise MappingError(msg)
        if version > event_class.event_version:
            msg = f"an event {name!r} of version {version}; this program knows it up to {event_class.event_version}"
            raise MappingError(msg)
        data = envelope.get("data")
        if not isinstance(data, dict):
            msg = f"the data of an event {name!r} are no JSON object"
            raise DocumentRefusedError(msg)
        for older in range(version, event_class.event_version):
            data = self._upcasters[name, older](data)
        try:
            return event_class.model_validate(data)
        except ValidationError as error:
            places = ", ".join(".".join(map(str, item["loc"])) for item in error.errors(include_input=False))
            msg = f"the data of an event {name!r} do not fit its class, at {places}"
            raise DocumentRefusedError(msg) from None


def subject_of(identity: Identity) -> str:
    """Name an aggregate: `Account/acc-1`, or `GameSession/s-1/["acc-1"]` where the id alone is not its key.

    It is the partition key of the container of events, so one that is too long for that ends in a digest.
    """
    short = f"{identity.entity}/{identity.id}"
    subject = short if identity.partition_key == key_text([identity.id]) else f"{short}/{identity.partition_key}"
    size = len(subject.encode(errors="surrogatepass"))
    if size <= MAX_PARTITION_KEY_BYTES:
        return subject
    digest = hashlib.blake2b(subject.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{identity.entity}/{digest}"


def aggregate_of(subject: str) -> Identity:
    """Return the aggregate that a subject names; where the subject is a digest, so is the id."""
    entity, _, rest = subject.partition("/")
    id_, _, partition_key = rest.partition("/")
    return Identity(entity, partition_key or key_text([id_]), id_)


def carried_by(document: Document) -> list[Any]:
    """Return what a document carries as events, oldest first; whoever wrote it, so anything may be in it."""
    ours = document.get(ENVELOPE)
    events = ours.get(CARRIED) if isinstance(ours, dict) else None
    return events if isinstance(events, list) else []


def events_of(document: Document, identity: Identity) -> tuple[Document, ...]:
    """Return the events of this very aggregate that its document carries; one that was copied brings others along."""
    return tuple(event for event in carried_by(document) if is_envelope_of(event, identity))


def is_envelope_of(envelope: object, identity: Identity) -> TypeGuard[Document]:
    """Whether something that a document carries is an event of this very aggregate."""
    return (
        isinstance(envelope, dict)
        and envelope.get("specversion") == _SPEC
        and isinstance(envelope.get("id"), str)
        and bool(envelope["id"])
        and envelope.get("subject") == subject_of(identity)
    )


def carry(document: Document, events: Sequence[Document]) -> None:
    """Put events into a stamped document, whose hash does not cover them.

    Raises:
        DocumentRefusedError: Cosmos DB does not take so large a document.

    """
    if not events:
        return
    document[ENVELOPE][CARRIED] = list(events)
    size = len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_DOCUMENT_BYTES - ENVELOPE_BYTES:
        msg = (
            f"the document has {size} bytes with its {len(events)} events; Cosmos DB takes {MAX_DOCUMENT_BYTES} bytes"
            " (events leave it when the relay has delivered them: is it running?)"
        )
        raise DocumentRefusedError(msg)


def _name(event_class: type[Event]) -> str:
    if event_class.event_name is None:
        msg = f"the class {event_class.__name__} has no name: class {event_class.__name__}(Event, name=…)"
        raise MappingError(msg)
    return event_class.event_name


def _schema_of(envelope: Document) -> tuple[str, int]:
    schema = envelope.get("dataschema")
    name, _, version = (schema if isinstance(schema, str) else "").removeprefix(_SCHEMA).rpartition(":")
    if name != envelope.get("type") or not version.isdecimal():
        msg = "this is no event that Crossfeed recorded"
        raise DocumentRefusedError(msg)
    return name, int(version)
