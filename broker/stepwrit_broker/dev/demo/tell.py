"""The story's voice: short lines on a terminal, readable in under a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from stepwrit.agent import Intent
    from stepwrit_broker.dev.demo.attacks import Refused
    from stepwrit_broker.dev.demo.stage import Stage

Tree = Callable[[Mapping[str, Any]], RenderableType]


def _grant(text: str) -> str:
    """What the bank said, without its braces."""
    return text.strip("{}").replace('"', "").replace(",", "  ").replace(":", " ")


class Teller:
    """Says what happens as it happens; says nothing when quiet."""

    def __init__(self, *, quiet: bool, tree: Tree) -> None:
        self._console = Console(quiet=quiet, highlight=False)
        self._tree = tree
        self._attacked = False

    def _head(self, number: int, text: str) -> None:
        self._console.print()
        self._console.print(Text(f"{number}  {text}", style="bold"))

    def _line(self, mark: str, style: str, text: str, detail: str = "") -> None:
        """One fact; its detail beside it where there is room, below it where not."""
        line = Text("   ")
        line.append(f"{mark} ", style=style)
        line.append(text)
        fits = line.cell_len + len(detail) + 2 <= self._console.width
        if detail and fits:
            line.append(f"  {detail}", style="dim")
        self._console.print(line)
        if detail and not fits:
            self._console.print(Padding(Text(detail, style="dim"), (0, 0, 0, 5)))

    def _did(self, text: str, detail: str = "") -> None:
        self._line("✓", "green", text, detail)

    def opening(self, *, spire: bool = False) -> None:
        """Before anything runs."""
        whose = "identities from real SPIRE, started for this" if spire else "development identities"
        self._console.print(
            Text("Stepwrit demo", style="bold"), Text(f"{whose}; nothing here is production", style="dim")
        )

    def stage(self, stage: Stage) -> None:
        """Everything runs."""
        self._head(1, "A broker, three MCP servers and a bank, each attested by its own X.509-SVID")
        if stage.spire is not None:
            self._did(
                "SPIRE server and agent", f"trust domain {stage.spire.trust_domain}  {stage.spire.socket}"
            )
        self._did("broker", f"{stage.dev.broker.mtls_url}  mTLS, SQLite, Cedar stance 'approval'")
        self._did("ledger, audit, archive", "real MCP servers on the official SDK, streamable HTTP")
        self._did("bank", f"{stage.bank}  a resource behind the guard")

    def intent(self, intent: Intent) -> None:
        """A person began it."""
        self._head(2, "Alice wants an invoice paid; her proof is bound to this agent, ceiling and purpose")
        self._did(f"intent, origin {intent.origin}, proof {intent.proof}", f"ref {intent.ref}")

    def paid(self, text: str) -> None:
        """The model's step went through."""
        self._head(3, "The model calls ledger/pay_invoice: one step, one credential, one request")
        self._did("credential issued, redeemed at the bank, dead", _grant(text))

    def own_steps(self, told: list[str]) -> None:
        """What the server started."""
        self._head(4, "The server starts two things of its own; one goes on to a third server")
        self._did("audit/record → archive/store, low impact: allowed", told[0].partition(": ")[2][:60])
        self._line("✗", "red", "audit/purge, medium impact: refused", told[1].partition(": ")[2][:60])

    def asked(self, origin: str, picked: str, laundered: Refused | None) -> None:
        """The server used the client's model."""
        self._head(5, "The server asks the client's model; what that picks stays the server's")
        self._did(f"client/sampling, a step of origin {origin}; it offers audit/look: allowed", picked)
        what = "the prompt has the model pay an invoice, which was not offered"
        if laundered is None:
            self._line("!", "bold red", f"{what}: NOT REFUSED")
        else:
            self._line("✗", "red", what, f"{laundered.code}  ref {laundered.ref}")

    def job(self, step: str, origin: str, answer: str, thief: Refused | None) -> None:
        """It ran after all that."""
        self._head(6, "A job outlives its call and a restart of the broker; its queue holds an id")
        if thief is not None:
            self._line("✗", "red", "another server has the id", f"{thief.code}  ref {thief.ref}")
        self._did(f"archive/report resumed, origin {origin}", f"{step}  {_grant(answer)}")

    def high(self, found: Refused | None) -> None:
        """High impact."""
        self._head(7, "The model tries high impact: nothing runs before Alice has signed exactly that")
        if found is not None:
            self._line("…", "yellow", f"ledger/close_books: {found.code}", f"ref {found.ref}")

    def signed(self, text: list[str], answer: str) -> None:
        """She read it and signed it, and it ran."""
        for line in text:
            self._console.print(Padding(Text(line, style="italic"), (0, 0, 0, 5)))
        self._did("signed with her own key (stepwrit approve); the step ran, once", _grant(answer))

    def refused(self, what: str, got: Refused | None) -> None:
        """One attack."""
        if not self._attacked:
            self._attacked = True
            self._head(8, "Then everything that must not work, tried over the wire")
        if got is None:
            self._line("!", "bold red", f"{what}: NOT REFUSED")
            return
        self._line("✗", "red", f"{what}", f"{got.code}{f'  ref {got.ref}' if got.ref else ''}")

    def lineage(self, story: Mapping[str, Any]) -> None:
        """The whole transaction."""
        self._head(9, "Afterwards anyone can see who started what")
        self._console.print(self._tree(story))

    def explain(self, story: Mapping[str, Any], ref: str | None) -> None:
        """One ref."""
        asked = story["asked"][0] if story["asked"] else {}
        self._head(10, f"stepwrit explain {ref}")
        for name in ("verb", "code", "reason", "rule", "caller", "tool"):
            if asked.get(name):
                self._console.print(
                    Text(f"   {name:<8}", style="dim").append(str(asked[name]), style="default")
                )

    def ledger(self, found: Mapping[str, Any]) -> None:
        """The ledger, offline."""
        self._head(11, "The ledger, verified offline: database file, public key, anchor; no broker")
        if found["verified"]:
            self._did(f"{found['size']} entries", f"root {found['root'][:32]}…")
        else:
            self._line("!", "bold red", "; ".join(found["lines"])[:200])

    def end(self, result: Mapping[str, Any]) -> None:
        """The count."""
        refused = ", ".join(f"{name} {count}" for name, count in result["refused"].items())
        self._console.print()
        self._console.print(
            Text(
                f"issued {result['issued']}, redeemed {result['redeemed']}, ended {result['revoked']}; "
                f"refused: {refused}",
                style="bold",
            )
        )
        for wrong in result["wrong"]:
            self._line("!", "bold red", f"not as told: {wrong}")
