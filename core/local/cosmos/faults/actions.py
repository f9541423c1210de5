"""Names what can go wrong with a request: each fault is a frozen model, and reads the same as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from random import Random

Moment = Literal["before", "after"]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class Frozen(BaseModel):
    """A model that never changes and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Constant(Frozen):
    """Always `seconds`."""

    kind: Literal["constant"] = "constant"
    seconds: Seconds

    def draw(self, random: Random) -> float:
        """Return a duration in seconds."""
        return self.seconds


class Uniform(Frozen):
    """Any duration from `least` to `most` seconds, all equally likely."""

    kind: Literal["uniform"] = "uniform"
    least: Seconds = 0.0
    most: Seconds

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError("least must not be above most")
        return self

    def draw(self, random: Random) -> float:
        """Return a duration in seconds."""
        return random.uniform(self.least, self.most)


class LogNormal(Frozen):
    """Mostly about `median` seconds with a long tail: `sigma` is the deviation of the logarithm, cut at a day."""

    kind: Literal["lognormal"] = "lognormal"
    median: Annotated[float, Field(gt=0, le=86_400)]
    sigma: Annotated[float, Field(ge=0, le=10)] = 0.5

    def draw(self, random: Random) -> float:
        """Return a duration in seconds."""
        return min(self.median * random.lognormvariate(0.0, self.sigma), 86_400.0)


Duration = Annotated[Constant | Uniform | LogNormal, Field(discriminator="kind")]


class ByVersions(Frozen):
    """Behind by `least` to `most` LSNs, drawn for each read."""

    kind: Literal["versions"] = "versions"
    least: Annotated[int, Field(ge=0)] = 1
    most: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError("least must not be above most")
        return self


class ByTime(Frozen):
    """Behind by a duration of the server's clock, drawn for each read."""

    kind: Literal["time"] = "time"
    duration: Duration


Behind = Annotated[ByVersions | ByTime, Field(discriminator="kind")]


class Refuse(Frozen):
    """Answer with an error, before the request is handled, or in place of its answer after it took effect.

    `substatus`, `message` and, for 429, `retry_after_ms` are what Cosmos DB usually sends with the status if they are
    not given.
    """

    kind: Literal["refuse"] = "refuse"
    status: Annotated[int, Field(ge=400, le=599)]
    substatus: Annotated[int, Field(ge=0)] | None = None
    retry_after_ms: Annotated[int, Field(ge=0)] | None = None
    message: str | None = None
    moment: Moment = "before"


class Budget(Frozen):
    """Refuse with 429/3200 what comes while the request units are used up: a bucket that fills at `ru_per_second`.

    It holds `burst` request units, is one per physical partition or one per container, and is emptied by what the
    answers charge, so that it can be overdrawn by one request; retry-after is the time until it is filled again.
    Only requests on documents are charged.
    """

    kind: Literal["budget"] = "budget"
    ru_per_second: Annotated[float, Field(gt=0)]
    burst: Annotated[float, Field(gt=0)]
    per: Literal["partition", "container"] = "partition"


class Delay(Frozen):
    """Wait before the request is handled, or after it was and before it is answered.

    A request goes on to take effect though its client has gone meanwhile, and though the rule was removed; only when
    all faults are cleared, or the server stops, it is dropped.
    """

    kind: Literal["delay"] = "delay"
    duration: Duration
    moment: Moment = "before"


class Hold(Frozen):
    """Keep the request back, and apply it later, against what is there then: after `seconds`, or on release (None).

    Its `client` meanwhile has its connection cut, gets a 408, or waits for the late answer.
    """

    kind: Literal["hold"] = "hold"
    client: Literal["cut", "timeout", "waits"] = "cut"
    seconds: Seconds | None = None


class Cut(Frozen):
    """Cut the connection before the request takes effect, after it, or (also after it) in the middle of the answer."""

    kind: Literal["cut"] = "cut"
    moment: Literal["before", "after", "middle"] = "before"


class Down(Frozen):
    """Answer 503 to whatever touches the physical partition that the rule names, or any of the container's."""

    kind: Literal["down"] = "down"


class Lag(Frozen):
    """Answer reads, queries and feed pages from an older state, as a replica that is behind does.

    A request whose session token demands more gets 404/1002. The state is never older than the rule.
    """

    kind: Literal["lag"] = "lag"
    behind: Behind = ByVersions()


Action = Annotated[Refuse | Budget | Delay | Hold | Cut | Down | Lag, Field(discriminator="kind")]
