"""RFC 8414 metadata: what this broker serves, where, and how clients prove who they are there."""

from __future__ import annotations

from typing import Final

from stepwrit.jwtsvid import ALGORITHMS
from stepwrit.wire import ACTION_TYPE, DOC_BASE, GRANT_TOKEN_EXCHANGE, TOKEN_TYPE_ACCESS, TOKEN_TYPE_TXN
from stepwrit.wire_chain import GRANT_JWT_BEARER, PROFILE_ID_JAG, TOKEN_TYPE_ID_JAG

ENDPOINTS: Final = ("token", "introspection", "revocation")
_PATHS: Final = {"token": "/oauth/token", "introspection": "/oauth/introspect", "revocation": "/oauth/revoke"}


def authorization_server_metadata(
    *, issuer: str, mtls_base: str, trust_domain: str, is_open: bool
) -> dict[str, object]:
    """The document. `mtls_base`: URL of the listener for certificates; `is_open`: `issuer` is served here.

    Where `issuer` is served, the plain endpoints are for JWT-SVIDs and the aliases of RFC 8705 section 5 for
    certificates; else there is only the one listener. Sources: RFC 8414 section 2,
    draft-ietf-oauth-spiffe-client-auth section 5.
    """
    base, methods = (issuer, ["spiffe_jwt", "spiffe_x509"]) if is_open else (mtls_base, ["spiffe_x509"])
    return {
        "issuer": issuer,
        **_endpoints(base, methods, ["spiffe_jwt"] if is_open else []),
        "jwks_uri": f"{base}/oauth/jwks",
        "grant_types_supported": [GRANT_TOKEN_EXCHANGE, GRANT_JWT_BEARER],
        "authorization_grant_profiles_supported": [PROFILE_ID_JAG],
        "identity_chaining_requested_token_types_supported": [TOKEN_TYPE_ID_JAG],
        "response_types_supported": [],
        "scopes_supported": ["intent"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "authorization_details_types_supported": [ACTION_TYPE],
        "mtls_endpoint_aliases": {f"{name}_endpoint": mtls_base + _PATHS[name] for name in ENDPOINTS},
        "stepwrit_policy_decision_point": mtls_base,
        "stepwrit_trust_domain": trust_domain,
        "stepwrit_token_types": [TOKEN_TYPE_TXN, TOKEN_TYPE_ACCESS, TOKEN_TYPE_ID_JAG],
        "service_documentation": DOC_BASE.partition("#")[0],
    }


def _endpoints(base: str, methods: list[str], signed: list[str]) -> dict[str, object]:
    said: dict[str, object] = {}
    for name in ENDPOINTS:
        said[f"{name}_endpoint"] = base + _PATHS[name]
        said[f"{name}_endpoint_auth_methods_supported"] = methods
        if signed:
            said[f"{name}_endpoint_auth_signing_alg_values_supported"] = sorted(ALGORITHMS)
    return said
