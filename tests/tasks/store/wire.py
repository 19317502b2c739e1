"""A TCP proxy for tests that can alter or cut the traffic."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Change = Callable[[bytes], bytes | None]


def unchanged(data: bytes) -> bytes:
    return data


@contextmanager
def wire(port: int, on_request: Change = unchanged, on_answer: Change = unchanged) -> Iterator[str]:
    """Run a proxy of a local port, yield its URL; a function maps each chunk, and None cuts the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, change: Change) -> None:
        with suppress(OSError):
            while (data := source.recv(2**16)) and (changed := change(data)) is not None:
                sink.sendall(changed)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for arguments in ((client, server, on_request), (server, client, on_answer)):
                    threading.Thread(target=pump, args=arguments, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
