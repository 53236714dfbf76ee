"""Imported before anything that imports gRPC: otherwise that remarks on every process we start."""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
