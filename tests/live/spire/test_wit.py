"""SPIRE signs WIT-SVIDs behind a flag of its server, but its Workload API gives none to workloads.

We take none either. The day this test fails is the day to begin.
"""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest

from stepwrit._workload_api import grpc_target
from stepwrit.identity import WorkloadIdentity
from stepwrit_broker.dev.spire import SpireDomain

HEADER = (("workload.spiffe.io", "true"),)


def answer(spire: SpireDomain, rpc: str) -> str:
    """How the Workload API answers an RPC with an empty message: OK, or the status."""
    with cast(Any, grpc).insecure_channel(grpc_target(spire.socket)) as channel:
        call = channel.unary_stream(f"/SpiffeWorkloadAPI/{rpc}")
        try:
            next(iter(call(b"", metadata=HEADER, timeout=10)))
        except grpc.RpcError as refused:
            return str(cast(Any, refused).code().name)
    return "OK"


@pytest.mark.parametrize("rpc", ["FetchWITSVID", "FetchWITBundles"])
async def test_the_workload_api_has_no_wit_svids_yet(spire: SpireDomain, rpc: str) -> None:
    me = WorkloadIdentity(spire.socket)
    await me.start()
    await me.wait_ready(30)
    assert answer(spire, "FetchX509SVID") == "OK"
    assert answer(spire, rpc) == "UNIMPLEMENTED"
    await me.close()
