"""Redis Streams, with an append-only file that is synced before each answer, or every second."""

from process import says

from . import Peer


class Redis(Peer):
    protocol, program = "redis", "redis-server"

    def __init__(self, fsync):
        super().__init__()
        self.fsync = fsync
        self.name = f"Redis Streams, appendfsync {fsync}"

    def version(self):
        words = super().version().split()
        return f"Redis {next(word[2:] for word in words if word.startswith('v='))}"

    def command(self, data, port):
        # No snapshots and no rewriting: neither belongs to what is measured.
        options = {
            "--port": port, "--bind": "127.0.0.1", "--dir": data, "--appendonly": "yes", "--appendfsync": self.fsync,
            "--save": "", "--auto-aof-rewrite-percentage": 0, "--maxclients": 15_000, "--daemonize": "no",
        }
        return [self.path, *(word for option in options.items() for word in option)]

    def ready(self, server):
        return says(server.port, b"PING\r\n", b"+PONG")
