"""A proxy on the loopback that cuts connections at random moments, in both directions."""

from __future__ import annotations

import random
import socket
import threading


class BreakingProxy:
    """Passes bytes on to `port` on this machine; a `share` of the connections is cut after a random number of bytes."""

    def __init__(self, port: int, share: float, seed: int = 0) -> None:
        self.target, self.share, self.draw = port, share, random.Random(seed)
        self.connections = self.cuts = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:  # closed
                return
            self.connections += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:  # the server has ended
                client.close()
                continue
            allowed = [self.draw.randrange(6000) if self.draw.random() < self.share else 1 << 60]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink, allowed), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, allowed: list[int]) -> None:
        try:
            while block := source.recv(8192):
                if len(block) > allowed[0]:
                    self.cuts += 1
                    for end in (source, sink):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                allowed[0] -= len(block)
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # the other direction was cut
            pass
