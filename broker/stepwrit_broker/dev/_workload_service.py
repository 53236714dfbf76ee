"""The RPCs of the SPIFFE Workload API for one development identity (SPIFFE_Workload_API.md)."""
# ruff: noqa: N802  the RPCs' names

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NoReturn, cast

import grpc
import jwt
from google.protobuf import struct_pb2
from spiffe._proto import workload_pb2  # pyright: ignore[reportPrivateUsage]

from stepwrit_broker.dev.ca import DevCa

_HEADER: Final = "workload.spiffe.io"


class WorkloadService:
    """Serves one identity. Everything runs on the event loop of the development trust domain.

    partners, partner_keys: other trust domains' bundles, DER and JWK sets, shared by all services.
    rotate_every: seconds.
    """

    def __init__(
        self,
        spiffe_id: str,
        ca: DevCa,
        partners: Mapping[str, tuple[bytes, ...]],
        partner_keys: Mapping[str, bytes],
        rotate_every: float,
    ) -> None:
        self._id = spiffe_id
        self._ca = ca
        self._partners, self._partner_keys = partners, partner_keys
        self._rotate_every = rotate_every
        self._changed = asyncio.Event()
        self._denied = False

    def deny(self) -> None:
        """The entry is deleted: everything answers PermissionDenied."""
        self._denied = True

    def changed(self) -> None:
        """Every open stream sends its full state again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def FetchX509SVID(self, _: object, context: Any) -> AsyncIterator[workload_pb2.X509SVIDResponse]:
        """The X.509-SVID with its bundle and the partners' bundles, and again after each change."""
        while True:
            changed = await self._admit(context)
            yield self._x509()
            await self._next(changed)

    async def FetchX509Bundles(
        self, _: object, context: Any
    ) -> AsyncIterator[workload_pb2.X509BundlesResponse]:
        """The X.509 bundles alone."""
        while True:
            changed = await self._admit(context)
            own = {self._domain(): b"".join(self._ca.authorities)}
            yield workload_pb2.X509BundlesResponse(bundles={**self._federated(), **own})
            await self._next(changed)

    async def FetchJWTSVID(
        self, request: workload_pb2.JWTSVIDRequest, context: Any
    ) -> workload_pb2.JWTSVIDResponse:
        """A JWT-SVID for the audiences asked for."""
        await self._admit(context)
        if not request.audience:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
        if request.spiffe_id not in ("", self._id):
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, "not an identity of this socket")
        try:
            token = self._ca.jwt_svid(self._id, list(request.audience))
        except LookupError:
            await _abort(context, grpc.StatusCode.UNAVAILABLE, "the trust domain is withdrawn")
        svid = workload_pb2.JWTSVID(spiffe_id=self._id, svid=token)
        return workload_pb2.JWTSVIDResponse(svids=[svid])

    async def FetchJWTBundles(
        self, _: object, context: Any
    ) -> AsyncIterator[workload_pb2.JWTBundlesResponse]:
        """The JWT bundles of this trust domain and of the partners."""
        while True:
            changed = await self._admit(context)
            theirs = {f"spiffe://{name}": jwks for name, jwks in self._partner_keys.items()}
            yield workload_pb2.JWTBundlesResponse(bundles={**theirs, self._domain(): self._ca.jwks()})
            await self._next(changed)

    async def ValidateJWTSVID(
        self, request: workload_pb2.ValidateJWTSVIDRequest, context: Any
    ) -> workload_pb2.ValidateJWTSVIDResponse:
        """The claims of a valid JWT-SVID of this trust domain."""
        await self._admit(context)
        try:
            claims = self._ca.validate_jwt(request.svid, request.audience)
        except (jwt.PyJWTError, LookupError) as error:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"not valid: {type(error).__name__}")
        shown = cast(Any, struct_pb2).Struct()
        shown.update(claims)
        return workload_pb2.ValidateJWTSVIDResponse(spiffe_id=str(claims["sub"]), claims=shown)

    def _x509(self) -> workload_pb2.X509SVIDResponse:
        issued = self._ca.x509_svid(self._id)
        svid = workload_pb2.X509SVID(
            spiffe_id=self._id,
            x509_svid=issued.certificate,
            x509_svid_key=issued.key,
            bundle=b"".join(self._ca.authorities),
        )
        return workload_pb2.X509SVIDResponse(svids=[svid], federated_bundles=self._federated())

    def _federated(self) -> dict[str, bytes]:
        return {f"spiffe://{name}": b"".join(roots) for name, roots in self._partners.items()}

    def _domain(self) -> str:
        return f"spiffe://{self._ca.trust_domain}"

    async def _next(self, changed: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), self._rotate_every)

    async def _admit(self, context: Any) -> asyncio.Event:
        """Only with the header, which a victim's forged request lacks, and while the entry exists.

        Returns the event of the next change, taken before the state is read: none is missed between.
        """
        changed = self._changed
        if (_HEADER, "true") not in {(key, value) for key, value in context.invocation_metadata() or ()}:
            await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        if self._denied:
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        return changed


async def _abort(context: Any, code: grpc.StatusCode, why: str) -> NoReturn:
    await context.abort(code, why)
    raise AssertionError  # abort always raises
