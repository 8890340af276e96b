"""The headers that tell browsers what to refuse, on every answer."""

import base64
import hashlib
import re

_POLICY = {
    "default-src": "'self'",
    # A page shows pictures that a person chose, before they are sent.
    "img-src": "'self' blob: data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}


def policy(html: str = "") -> str:
    """Return a Content-Security-Policy: everything from here, nothing inline.

    Args:
        html: a page whose own inline scripts and styles are allowed, by their digests.
    """
    directives = dict(_POLICY)
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        if inline:
            directives[f"{tag}-src"] = " ".join(["'self'", *map(_digest, inline)])
    return "; ".join(f"{name} {sources}" for name, sources in directives.items())


def _digest(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


HEADERS = [
    (b"content-security-policy", policy().encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
