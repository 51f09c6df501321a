"""Addresses of cameras, without their secret parts."""

from __future__ import annotations

import re

_HIDDEN = "***"
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)(?P<rest>[^\s'\"<>`]*)")
# As in rtsp://host/user=admin&password=x&channel=1, which is not a query.
_SECRET = re.compile(
    r"(?i)\b(user(?:name)?|login|usr|pass(?:word|wd)?|pwd|pw|psw|token|access_token|auth|key|"
    r"api_?key|secret|sig(?:nature)?|session(?:id)?|credential|code)=[^&;/?#\s]*"
)


def masked(text: object) -> str:
    """A text with the user names, passwords and tokens of all addresses in it replaced by ``***``.

    Three kinds of parts are hidden: everything before the ``@``, the values of queries (their names
    stay), and values named user, password, token and the like anywhere in an address.

    Args:
        text: Any text: an address, a message of FFmpeg with addresses in it, a path.

    Returns:
        The text; host, port and path of addresses stay.
    """
    return _ADDRESS.sub(_mask, str(text))


def _mask(found: re.Match[str]) -> str:
    rest = found["rest"]
    rest, hash_mark, fragment = rest.partition("#")
    rest, mark, query = rest.partition("?")
    if "@" in rest:
        rest = _without_user(rest)
    elif "@" in query + fragment and re.match(r"[^/@]*:(?![0-9]+(?:/|$))", rest):
        # A password with a ? or # in it, which should have been written as %3F or %23.
        return f"{found['scheme']}{_HIDDEN}@{(query + fragment).rpartition('@')[2]}"
    rest = _SECRET.sub(rf"\1={_HIDDEN}", rest)
    query = re.sub(r"=[^&;]*", f"={_HIDDEN}", query) if "=" in query else query and _HIDDEN
    if fragment:
        fragment = _SECRET.sub(rf"\1={_HIDDEN}", fragment)
    return f"{found['scheme']}{rest}{mark}{query}{hash_mark}{fragment}"


def _without_user(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if "@" in host:  # a password may contain more of them
        return f"{_HIDDEN}@{host.rpartition('@')[2]}{slash}{path}"
    # A password with a / in it, which should have been written as %2F; a port is not one.
    if re.match(r"[^:]*:(?![0-9]+$)", host):
        return f"{_HIDDEN}@{rest.rpartition('@')[2]}"
    return rest
