"""Pages as bytes: templates that escape everything, and the headers that every answer of ours carries."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from stepwrit_broker.edge.http import Send

_HERE: Final = "stepwrit_broker.edge.pages"
_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
STATIC_PATH: Final = "/pages/"
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
_OFF: Final = (
    "accelerometer", "autoplay", "bluetooth", "camera", "display-capture", "encrypted-media", "fullscreen",
    "geolocation", "gyroscope", "hid", "identity-credentials-get", "idle-detection", "local-fonts",
    "magnetometer", "microphone", "midi", "payment", "picture-in-picture", "screen-wake-lock", "serial",
    "usb", "web-share", "xr-spatial-tracking",
)  # fmt: skip
PERMISSIONS: Final = ", ".join(
    [
        "publickey-credentials-get=(self)",
        "publickey-credentials-create=(self)",
        *(f"{each}=()" for each in _OFF),
    ]
)
Headers = tuple[tuple[bytes, bytes], ...]
HEADERS: Final[Headers] = tuple(
    (name.encode(), value.encode())
    for name, value in {
        "content-security-policy": CSP,
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": PERMISSIONS,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }.items()
)
_NO_STORE: Final = (b"cache-control", b"no-store")
_FOR_EVER: Final = (b"cache-control", b"public, max-age=31536000, immutable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Html:
    """An answer to a browser."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    headers: Headers = (_NO_STORE,)

    def having(self, *headers: tuple[bytes, bytes]) -> Html:
        """The same with more headers."""
        return replace(self, headers=(*self.headers, *headers))

    async def send(self, send: Send, *, bare: bool = False) -> None:
        """Write it out; `bare`: the head alone."""
        head = [
            (b"content-type", self.content_type.encode()),
            (b"content-length", str(len(self.body)).encode()),
            *HEADERS,
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": head})
        await send({"type": "http.response.body", "body": b"" if bare else self.body})


def to(path: str) -> Html:
    """Go there with GET (RFC 9110 section 15.4.4)."""
    return Html(status=303).having((b"location", path.encode()))


class Templates:
    """The templates of this package, and its two static files under names that change with them."""

    def __init__(self) -> None:
        self._static = dict(_static(each) for each in ("style.css", "passkey.js"))
        self._made = Environment(
            loader=PackageLoader(_HERE),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._named = {path.rpartition("-")[2]: path for path in self._static}

    def page(self, name: str, *, status: int = 200, **given: object) -> Html:
        """A page of a template."""
        return Html(
            status=status, body=self._made.get_template(name).render(given, static=self._named).encode()
        )

    def static(self, path: str) -> Html | None:
        """A file under its whole name."""
        return self._static.get(path)


def _static(name: str) -> tuple[str, Html]:
    body = (files(_HERE) / "static" / name).read_bytes()
    path = f"{STATIC_PATH}{hashlib.sha256(body).hexdigest()[:16]}-{name}"
    return path, Html(body=body, content_type=_TYPES[name.rpartition(".")[2]], headers=(_FOR_EVER,))
