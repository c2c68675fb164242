"""Credentials in URLs: which a URL has, and texts without them.

A URL is written into configurations, plans, logs and messages, so that a password has no place in it. The signature of
a web address cannot be given otherwise; it is used, and written nowhere.
"""

import re
from typing import Literal
from urllib.parse import parse_qsl

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>.,;:)\]]")
"""A URL in a text, without what ends the sentence."""
SIGNING = re.compile(
    r"sig|signature|token|secret|password|passwd|key|api_?key|access_?key(id)?|credential|auth|authorization|jwt|"
    r".*[-_.](token|signature|secret|credential|key|sig)|.*(token|signature|secret|password)",
    re.IGNORECASE,
)
"""Names of a query's parameters that give access: those of S3, Google, Azure and what web services call theirs."""


def credentials_in(url: str) -> Literal["password", "signature"] | None:
    """What in a URL gives access to whoever reads it: a user's password or key, or a signature in its query."""
    if "://" not in url:
        return None
    for part in url.split("::"):
        scheme, _, rest = part.partition("://")
        host = re.split(r"[/?#]", rest, maxsplit=1)[0]
        user, at, _ = host.rpartition("@")
        # A key with a slash in it ends the host early: what follows its colon is then no port.
        broken = not at and "@" in rest and re.search(r":(?!\d*$)", host.partition("]")[2] or host)
        if broken or (at and (":" in user or scheme.lower() in ("http", "https"))):
            return "password"
    return "signature" if any(SIGNING.fullmatch(name) for name in _parameters(url)) else None


def _parameters(url: str) -> list[str]:
    _, _, query = url.partition("?")
    return [name for name, _ in parse_qsl(query.partition("#")[0].partition("::")[0], keep_blank_values=True)]


def without_credentials(url: str) -> str:
    """A URL without user and password, and without its query if that signs it or if it is a web address."""
    return "::".join(_bare(part) for part in url.split("::"))


def _bare(url: str) -> str:
    if "://" not in url:
        return url
    scheme, rest = url.split("://", 1)
    if credentials_in(url) == "password":
        # Behind the last @, since a password may have slashes and more of them.
        rest = rest.rpartition("@")[2]
    host, slash, path = rest.partition("/")
    if scheme.lower().endswith(("http", "https")) or any(SIGNING.fullmatch(name) for name in _parameters(url)):
        host, path = host.partition("?")[0], re.split(r"[?#]", path, maxsplit=1)[0]
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def redacted(text: str) -> str:
    """A text, as a backend's message, in which no URL has credentials."""
    return URL.sub(lambda found: without_credentials(found[0]), text)
