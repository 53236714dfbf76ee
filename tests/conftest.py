"""What all tests share: no test fails because the machine was busy, or because another one used gRPC."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("stepwrit", deadline=None)
settings.load_profile("stepwrit")
# Tests start servers from a process that has gRPC's threads. Its fork handlers are for a child that goes on
# with gRPC; they can crash one that is about to exec. Read when grpc is imported: before any test module.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
