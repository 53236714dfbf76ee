"""For tools that are plain functions, and for programs without an event loop.

@server.tool()
def transfer(amount: int, bank: Annotated[Credential, credential("https://bank.example")]) -> str:
with httpx2.Client(auth=bank, base_url="https://bank.example") as http:
return http.post("/v1/transfers", json={"cents": amount * 100}).text
"""

from __future__ import annotations

from stepwrit import mcp
from stepwrit._credential import SyncCredential as Credential
from stepwrit.client import SyncBroker as Broker
from stepwrit.lineage import current_step

__all__ = ["Broker", "Credential", "credential", "current_step"]


class credential(mcp.credential):  # noqa: N801  reads as what it stands for in an annotation
    """As `stepwrit.mcp.credential`, with a handle whose `token_sync` blocks."""

    def __init__(self, audience: str) -> None:
        super().__init__(audience, kind=Credential)
