"""Who may look at the page: the address it listens on, the names it answers to, and the token.

A page on this machine's loopback address can be reached by every page that a browser here has open, so that it must
not answer to names of others (DNS rebinding) nor act on what other pages send (cross-site requests).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable

from i2i_runtime.errors import UsageError

_LEAST_TOKEN = 16
"""Characters of a token that somebody chose."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    address = _literal(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


class Guard:
    """Decides which requests are answered.

    Attributes:
        token: what a visitor must know; None where there is no need.
        made_token: whether it was made here.
    """

    def __init__(self, host: str, token: str | None = None, names: Iterable[str] = ()) -> None:
        """Settle the token and the names.

        Args:
            host: the address that is listened on. Any but a loopback address needs a token, and that too where it has
                further names: what makes it known by them lets others in.
            token: what a visitor must know; made here where one is needed and none is given.
            names: further names that the machine is reached by, as a reverse proxy or a name server knows it.

        Raises:
            UsageError: a token that is too short or has characters that an address would have to escape.
        """
        if token is not None and not re.fullmatch(rf"[A-Za-z0-9._~-]{{{_LEAST_TOKEN},}}", token):
            raise UsageError(f"the page's token: expected {_LEAST_TOKEN} or more letters, digits or any of . _ ~ -")
        further = {name.lower() for name in names}
        self._is_open = is_loopback(host) and not further
        self.made_token = token is None and not self._is_open
        self.token = secrets.token_urlsafe(24) if self.made_token else token
        own = {"localhost", host.lower(), *further}
        if not self._is_open:
            machine = socket.gethostname().lower()
            own |= {machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local"}
        self._names = own

    def knows_host(self, header: str | None) -> bool:
        """Whether a request's `Host` is a name of ours. The port is not compared: SSH and containers change it.

        A numeric address cannot be rebound by a name server: of a page that others may reach, each one is ours.
        """
        match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^][\s@/?#\\:]+)(?::\d{1,5})?", (header or "").lower())
        if match is None:
            return False
        host = match[1].strip("[]")
        address = _literal(host)
        if address is not None:
            return address.is_loopback or not self._is_open or host in self._names
        return host in self._names

    def is_own_origin(self, origin: str | None, host: str) -> bool:
        """Whether a request comes from our own page, or, without an `Origin`, from no page at all."""
        return origin is None or origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")

    def admits(self, *offered: str | None) -> bool:
        """Whether one of the offered tokens is right, or none is needed; every wrong one takes the same time."""
        if self.token is None:
            return True
        expected = self.token.encode()
        return any(hmac.compare_digest((each or "").encode("utf-8", "replace"), expected) for each in offered)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        # Only IPv6 addresses have a zone; of a name, what follows belongs to the name.
        return ipaddress.ip_address(host.partition("%")[0] if ":" in host else host)
    except ValueError:
        return None
