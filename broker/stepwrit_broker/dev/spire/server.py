"""A real SPIRE server: one trust domain, its state in one folder, loopback only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from stepwrit_broker.dev import tools
from stepwrit_broker.dev.ports import steady_port
from stepwrit_broker.dev.spire.hcl import Block, render
from stepwrit_broker.dev.spire.process import Process, Program, serving, socket_in
from stepwrit_broker.dev.spire.registration import Federation, ServerApi


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEndpoint:
    """Where partners fetch our bundle.

    profile `https_spiffe` serves the server's own SVID; `https_web` the certificate chain `cert` with `key`
    (PEM), reread each second. refresh_hint_s: how often partners are asked to look. port: 0 chooses one.
    """

    profile: Literal["https_spiffe", "https_web"] = "https_spiffe"
    cert: Path | None = None
    key: Path | None = None
    refresh_hint_s: int = 60
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What tests vary. Lives in seconds, of what the server signs unless an entry says otherwise.

    SPIRE replaces its authority by itself: the next is prepared after half of `ca_ttl_s`, and used after five
    sixths. cache_s: how old the entries may be that agents are told of. web_roots: PEM file of the roots that
    `https_web` partners are checked by, in place of the machine's. federates_with: partners from the
    start; `server.api` changes them at run time. settings: more of the `server` block.
    """

    ca_ttl_s: int = 24 * 3600
    x509_ttl_s: int = 3600
    jwt_ttl_s: int = 300
    agent_ttl_s: int = 3600
    cache_s: float = 1.0
    jwt_issuer: str | None = None
    bundle_endpoint: BundleEndpoint | None = None
    federates_with: tuple[Federation, ...] = ()
    web_roots: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


class SpireServer(Program):
    """`async with SpireServer("a.test", folder) as server:`; `server.api` is the operator's side.

    folder: made where needed, short enough for a socket. It survives `stop` and `kill`: a later `start` is a
    restart with the same state and the same ports. Raises ToolMissing, and ProcessFailed with the log's end.
    """

    def __init__(self, trust_domain: str, folder: Path, options: ServerOptions | None = None) -> None:
        self.trust_domain: Final = trust_domain
        self.folder, self.options = folder.absolute(), options or ServerOptions()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket: Final = socket_in(self.folder, "server.sock")
        self.port: Final = steady_port()
        endpoint = self.options.bundle_endpoint
        self._bundle_port = 0 if endpoint is None else endpoint.port or steady_port()
        binary = tools.find("spire-server")
        self.api: Final = ServerApi(binary, self.socket)
        roots = self.options.web_roots
        self.process = Process(
            [binary, "run", "-config", self.folder / "server.conf"],
            log=self.folder / "server.log",
            environ={} if roots is None else {"SSL_CERT_FILE": str(roots), "SSL_CERT_DIR": "/nonexistent"},
        )

    @property
    def spiffe_id(self) -> str:
        """Of the server itself: what an `https_spiffe` partner expects at our bundle endpoint."""
        return f"spiffe://{self.trust_domain}/spire/server"

    @property
    def bundle_url(self) -> str:
        """Where partners fetch our bundle; on `localhost` for `https_web`, whose certificate names it."""
        if self.options.bundle_endpoint is None:
            raise ValueError("this server has no bundle endpoint")
        host = "localhost" if self.options.bundle_endpoint.profile == "https_web" else "127.0.0.1"
        return f"https://{host}:{self._bundle_port}"

    def partnership(self, bundle: str | None = None) -> Federation:
        """What a partner needs to follow our bundle; `bundle`: the first, as `await server.api.bundle()`."""
        spiffe = self.options.bundle_endpoint and self.options.bundle_endpoint.profile == "https_spiffe"
        return Federation(
            trust_domain=self.trust_domain,
            url=self.bundle_url,
            endpoint_id=self.spiffe_id if spiffe else None,
            bundle=bundle,
        )

    async def start(self) -> None:
        """Start, or start again, and wait until it serves."""
        (self.folder / "server.conf").write_text(render(self._settings()), encoding="utf-8")
        await self.process.start(lambda: serving(self.socket))

    def _settings(self) -> Block:
        options = self.options
        server: dict[str, Any] = {
            "bind_address": "127.0.0.1",
            "bind_port": self.port,
            "socket_path": self.socket,
            "trust_domain": self.trust_domain,
            "data_dir": self.folder / "data",
            "log_level": "INFO",
            "ca_key_type": "ec-p256",
            "ca_ttl": f"{options.ca_ttl_s}s",
            "default_x509_svid_ttl": f"{options.x509_ttl_s}s",
            "default_jwt_svid_ttl": f"{options.jwt_ttl_s}s",
            "agent_ttl": f"{options.agent_ttl_s}s",
            "jwt_issuer": options.jwt_issuer,
            "ratelimit": {"attestation": False, "signing": False},
            "federation": self._federation(),
            "experimental": {"cache_reload_interval": f"{options.cache_s:g}s"},
            **options.settings,
        }
        return {"server": server, "plugins": self._plugins()}

    def _plugins(self) -> Block:
        data = self.folder / "data"
        data.mkdir(mode=0o700, exist_ok=True)
        store = {"database_type": "sqlite3", "connection_string": data / "store.sqlite3"}
        return {
            'DataStore "sql"': {"plugin_data": store},
            'KeyManager "disk"': {"plugin_data": {"keys_path": data / "keys.json"}},
            'NodeAttestor "join_token"': {"plugin_data": {}},
        }

    def _federation(self) -> Block | None:
        endpoint, partners = self.options.bundle_endpoint, self.options.federates_with
        if endpoint is None and not partners:
            return None
        followed = {f'federates_with "{each.trust_domain}"': _followed(each) for each in partners}
        return {"bundle_endpoint": self._endpoint(endpoint), **followed}

    def _endpoint(self, endpoint: BundleEndpoint | None) -> Block | None:
        if endpoint is None:
            return None
        files = {"cert_file_path": endpoint.cert, "key_file_path": endpoint.key, "file_sync_interval": "1s"}
        web = endpoint.profile == "https_web"
        return {
            "address": "127.0.0.1",
            "port": self._bundle_port,
            "refresh_hint": f"{endpoint.refresh_hint_s}s",
            f'profile "{endpoint.profile}"': {"serving_cert_file": files} if web else {},
        }


def _followed(partner: Federation) -> Block:
    if partner.endpoint_id is None:
        return {"bundle_endpoint_url": partner.url, 'bundle_endpoint_profile "https_web"': {}}
    profile = {"endpoint_spiffe_id": partner.endpoint_id}
    return {"bundle_endpoint_url": partner.url, 'bundle_endpoint_profile "https_spiffe"': profile}
