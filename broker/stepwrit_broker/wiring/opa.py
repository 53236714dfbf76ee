"""The OPA that evaluates Rego, if broker.toml names one."""

from __future__ import annotations

from contextlib import AsyncExitStack

from stepwrit_broker.clock import elapsed_s
from stepwrit_broker.core.errors import Malformed
from stepwrit_broker.observe import Metrics
from stepwrit_broker.policy.opa import Opa
from stepwrit_broker.policy.opa_http import OpaServer


def opa_of(server: OpaServer | None, metrics: Metrics, stack: AsyncExitStack) -> Opa | None:
    """Closed with the stack. It may be away when we start: it is asked when there is a question.

    Raises Malformed when its CA or token cannot be read.
    """
    if server is None:
        return None
    try:
        opa = Opa(server, elapsed_s, metrics.opa_asked)
    except (OSError, UnicodeDecodeError) as bad:  # an SSLError is an OSError
        reason = f"opa: its ca_file or token_file cannot be read ({type(bad).__name__})"
        raise Malformed("invalid_request", reason) from bad
    stack.push_async_callback(opa.aclose)
    return opa
