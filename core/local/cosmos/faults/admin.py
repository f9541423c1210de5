"""Switches faults, the clock and splits over HTTP, for tests of a server in another process.

All of it is JSON under `/_crossfeed` of the same server, with `Authorization: Bearer <account key>`:

    GET, POST, DELETE  faults          all rules with their counts; add one; clear everything
    DELETE             faults/{name}   remove a rule
    GET, PUT           seed            {"seed": 5}
    GET                injected        what really happened: counts by rule, and the last faults
    GET, POST          held            the requests held back; release all of them
    POST, DELETE       held/{id}       release one; drop one
    GET, POST          clock           {"advance": 3600.0}, seconds; a negative value steps it back
    POST               splits          {"database": …, "container": …, "range_id": …}
"""

from __future__ import annotations

import hmac
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, ValidationError

from core.local.cosmos.errors import CosmosError, bad_request, not_found
from core.local.cosmos.faults.actions import Frozen
from core.local.cosmos.faults.registry import MAX_SEED
from core.local.cosmos.faults.rules import Rule
from core.local.cosmos.messages import Request, Response, json_response

if TYPE_CHECKING:
    from core.local.cosmos.faults.registry import Faults

_CENTURY: Final = 100 * 366 * 24 * 3600
_Model = TypeVar("_Model", bound=BaseModel)


class Seed(Frozen):
    """What all draws come from."""

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]


class Advance(Frozen):
    """How far the clock is moved, in seconds."""

    advance: Annotated[float, Field(ge=-_CENTURY, le=_CENTURY)]


class Split(Frozen):
    """The partition key range that is split, at its middle or at an effective partition key `boundary`."""

    database: str
    container: str
    range_id: str = "0"
    boundary: Annotated[str, Field(pattern="^([0-9A-F]{2})+$", max_length=1024)] | None = None


class Admin:
    """Answers the requests to `/_crossfeed`."""

    def __init__(self, faults: Faults, key: str) -> None:
        self._faults = faults
        self._authorization = f"Bearer {key}".encode()

    def handle(self, request: Request) -> Response:  # noqa: C901, PLR0911, PLR0912 - a dispatch
        """Answer a request.

        Raises:
            CosmosError: 400 for a bad value, 401 without the key, 404 and 405 for what there is not.
        """
        given = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._authorization):
            raise CosmosError(401, "The header Authorization must be 'Bearer' and the account key.")
        faults = self._faults
        match request.method, *request.segments[1:]:
            case "GET", "faults":
                return self._rules()
            case "POST", "faults":
                return self._add(_parsed(Rule, request))
            case "DELETE", "faults":
                faults.clear()
                return Response(204)
            case "DELETE", "faults", name:
                return self._remove(name)
            case "GET", "injected":
                last = [asdict(injection) for injection in faults.log]
                return json_response(200, {"counts": faults.injected, "last": last})
            case "GET", "seed":
                return json_response(200, {"seed": faults.seed})
            case "PUT", "seed":
                faults.seed = _parsed(Seed, request).seed
                return json_response(200, {"seed": faults.seed})
            case "GET", "held":
                return json_response(200, {"held": [asdict(held) for held in faults.held]})
            case "POST", "held":
                return json_response(200, {"released": [asdict(outcome) for outcome in faults.held.release_all()]})
            case ("POST" | "DELETE") as method, "held", id_:
                return self._end_hold(method, id_)
            case "GET", "clock":
                return self._clock()
            case "POST", "clock":
                faults.account().clock.advance(_parsed(Advance, request).advance)
                return self._clock()
            case "POST", "splits":
                return self._split(_parsed(Split, request))
            case _, ("faults" | "injected" | "seed" | "held" | "clock" | "splits"), *_:
                raise CosmosError(405, f"The method {request.method} is not allowed here.")
        raise not_found("The requested resource does not exist: unknown path.")

    def _rules(self) -> Response:
        rules = [rule.model_dump(mode="json", exclude_defaults=False) for rule in self._faults.rules]
        return json_response(200, {"seed": self._faults.seed, "rules": rules, "injected": self._faults.injected})

    def _add(self, rule: Rule) -> Response:
        try:
            added = self._faults.add(rule)
        except ValueError as error:
            raise bad_request(str(error)) from error
        return json_response(201, added.model_dump(mode="json"))

    def _remove(self, name: str) -> Response:
        try:
            self._faults.remove(name)
        except KeyError as error:
            raise not_found(f"There is no rule {name!r}.") from error
        return json_response(200, {"injected": self._faults.injected[name]})

    def _end_hold(self, method: str, id_: str) -> Response:
        held = self._faults.held
        try:
            outcome = held.release(id_) if method == "POST" else held.drop(id_)
        except KeyError as error:
            raise not_found(f"There is no held request {id_!r}.") from error
        return json_response(200, asdict(outcome))

    def _clock(self) -> Response:
        clock = self._faults.account().clock
        return json_response(200, {"now": clock.now(), "offset": clock.offset})

    def _split(self, split: Split) -> Response:
        container = self._faults.account().container(split.database, split.container)
        children = container.split(split.range_id, split.boundary)
        return json_response(201, {"children": [child.id for child in children]})


def _parsed(model: type[_Model], request: Request) -> _Model:
    """Return the body as a model.

    Raises:
        CosmosError: 400 that names each field which is wrong, and what it may be.
    """
    try:
        return model.model_validate_json(request.body)
    except ValidationError as error:
        raise bad_request("; ".join(_told(fault) for fault in error.errors())) from error


def _told(fault: Any) -> str:  # noqa: ANN401 - pydantic's own dictionary
    where = ".".join(str(part) for part in fault["loc"]) or "body"
    return f"{where}: {fault['msg']}"
