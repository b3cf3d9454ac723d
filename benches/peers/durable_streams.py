"""The Durable Streams server in Rust: a write-ahead log, synced in groups, and a file a stream."""

from process import says

from . import Peer, cargo_version


class DurableStreams(Peer):
    name, protocol, program = "Durable Streams", "durable-streams", "durable-streams-server"
    remark = "a stream is bytes: it knows no records and checks none when it is read"

    def version(self):
        return cargo_version(self.path, "durable-streams")

    def command(self, data, port):
        return [self.path, "--host", "127.0.0.1", "--port", port, "--data-dir", data]

    def ready(self, server):
        return says(server.port, b"HEAD / HTTP/1.1\r\nhost: localhost\r\n\r\n", b"HTTP/1.1")
