"""`/v1/admin/policy/shadow` and `/impact`: policies that are not in force. What is wrong with one is told to
the operator who gave it, and to nobody else.
"""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stepwrit_broker.edge.operator import Reader, asking, check_sees_all, ruler
from stepwrit_broker.flows.candidates import Wanted
from stepwrit_broker.flows.house import House
from stepwrit_broker.flows.impact import Impact
from stepwrit_broker.flows.shadowing import Shadowing

DAYS_7: float = 7 * 86_400.0
Asking = Annotated[Reader, Depends(asking)]


class CandidateBody(BaseModel):
    """A policy: its files' texts, or the number of a version. One of both."""

    model_config = ConfigDict(extra="forbid")

    text: str | None = Field(default=None, max_length=4_000_000, description="JSON of texts by file name")
    version: int | None = Field(default=None, ge=1)
    label: str = Field(default="", max_length=500, description="Where it is from; for the record")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.version is None):
            raise ValueError("give either text or version")
        return self

    @property
    def wanted(self) -> Wanted:
        """As the flows take it."""
        label = self.label or ("" if self.version is None else f"v{self.version}")
        return Wanted(text=self.text, version=self.version, label=label)


class ShadowBody(CandidateBody):
    """Start a shadow."""

    reason: str = Field(min_length=1, max_length=500)


class StopBody(BaseModel):
    """End it."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500)


class ImpactBody(CandidateBody):
    """Ask what it would change. since: seconds since the epoch; by default the last seven days."""

    since: float | None = Field(default=None, ge=0)


def rehearsal_routes(router: APIRouter, house: House, shadow: Shadowing, impact: Impact) -> None:
    """Put the routes onto `/v1/admin`."""

    @router.get("/policy/shadow")
    async def status(who: Asking) -> dict[str, Any]:
        """What runs beside the live policy, and what it found: bounded, first examples with refs."""
        check_sees_all(house, who)
        return dict(await shadow.status())

    @router.post("/policy/shadow")
    async def start(body: ShadowBody, who: Asking) -> dict[str, Any]:
        """Run a policy beside the live one; it decides nothing."""
        return dict(await shadow.start(body.wanted, by=ruler(house, who), reason=body.reason))

    @router.post("/policy/shadow/stop")
    async def stop(body: StopBody, who: Asking) -> dict[str, Any]:
        """End it; what it found."""
        return dict(await shadow.stop(by=ruler(house, who), reason=body.reason))

    @router.post("/policy/impact")
    async def report(body: ImpactBody, who: Asking) -> dict[str, Any]:
        """Recorded decisions asked again, and what a shadow of it found; kept for its activation."""
        since = house.clock.now() - DAYS_7 if body.since is None else body.since
        return dict(await impact.impact(body.wanted, since=since, by=ruler(house, who)))
