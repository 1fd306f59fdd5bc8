"""How leader and followers know of each other's end: a connection that ends with the process, and lines of JSON on it.

What followers compute with comes by other ways (`ddrank.ranks.team`); a collective operation that waits for a process
which is gone may wait for ever, and nobody looks after a follower that waits for its next assignment.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from typing import Any

from ddrank.ranks.place import JOIN, LOOPBACK

# Seconds without a word from the other machine, seconds between two questions whether it is there, and how many.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Channel:
    """One end of a connection. Whatever comes is given to the function that `watch` is given."""

    def __init__(self, connected: socket.socket):
        self._socket = connected
        connected.settimeout(None)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._lines = connected.makefile("r", encoding="utf-8", errors="replace")

    @classmethod
    def to(cls, host: str, port: int) -> Channel:
        """A connection to whoever listens there. Raises OSError."""
        return cls(socket.create_connection((host, port), timeout=JOIN))

    def send(self, **message: Any) -> None:
        """Send a message, if there is still someone to read it."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message; None at the end of the connection."""
        try:
            message = json.loads(self._lines.readline())
            return message if isinstance(message, dict) else None
        except (OSError, ValueError):
            return None

    def watch(self, told: Callable[[dict[str, Any] | None], None]) -> None:
        """Have `told` called, in a thread of its own, with every message, and with None at the end."""

        def listen() -> None:
            while (message := self.receive()) is not None:
                told(message)
            told(None)

        threading.Thread(target=listen, daemon=True).start()

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def listener(address: str) -> socket.socket:
    """A socket that others connect to: those of this machine alone, where `address` is no other's."""
    alone = address in (LOOPBACK, "localhost")
    return socket.create_server((LOOPBACK if alone else "", 0))
