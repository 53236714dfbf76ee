"""Of `/v1/admin`: one entry with its proof, for who may see the entry."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from stepwrit_broker.core.errors import Refused
from stepwrit_broker.core.ids import is_ref
from stepwrit_broker.core.tlog import LogProof
from stepwrit_broker.edge.operator import Reader, asking
from stepwrit_broker.ports import LedgerView, LoggedEntry

Asking = Annotated[Reader, Depends(asking)]


def proof_routes(router: APIRouter, ledger: LedgerView) -> None:
    """Put them on the admin router."""

    @router.get("/ledger/prove/{name}")
    def prove(name: str, who: Asking) -> list[dict[str, object]]:
        """The entries under a ref, or of a number, each with its bytes and a `c2sp.org/tlog-proof@v1`."""
        return [_proved(ledger, entry) for entry in _named(ledger, name, who.tenant)]


def _named(ledger: LedgerView, name: str, tenant: str | None) -> Sequence[LoggedEntry]:
    """Unknown and not-yours look alike. Raises Refused(`not_found`)."""
    found: Sequence[LoggedEntry] = ()
    if is_ref(name):
        found = ledger.by_ref(name, tenant)
    elif name.isascii() and name.isdigit() and len(name) <= 18:
        page = ledger.tail(int(name) - 1, 1, (), None)
        found = [each for each in page if each.seq == int(name) and tenant in (None, each.tenant)]
    if not found:
        raise Refused("not_found", "nothing is recorded under this name: give a ref, or an entry's number")
    return found


def _proved(ledger: LedgerView, entry: LoggedEntry) -> dict[str, object]:
    body = ledger.body(entry.seq)
    if body is None:
        raise Refused("not_found", "this entry was sealed: it is in an export, and only there")
    shown: Any = ledger.inclusion(entry.seq)
    path = tuple(bytes.fromhex(each) for each in shown["path"])
    proof = LogProof(index=entry.seq, path=path, checkpoint=shown["checkpoint"])
    return {
        "seq": entry.seq,
        "kind": entry.kind,
        "body": base64.b64encode(body).decode(),
        "proof": proof.text(),
    }
