"""NATS: JetStream with its store in files for what is kept, its core for those who only follow."""

from process import says

from . import Peer, first_line

CONFIG = """
listen: 127.0.0.1:{port}
jetstream {{ store_dir: "{data}", max_mem: 1G, max_file: 100G }}
max_connections: 200000
ping_interval: "60m"
max_pending: 512MB
"""


class Nats(Peer):
    name, protocol, program = "NATS JetStream", "nats", "nats-server"
    remark = "acks when the record is in the page cache, and syncs every two minutes"

    def version(self):
        return first_line(self.path, "--version").replace("nats-server: v", "NATS ")

    def command(self, data, port):
        config = data.with_suffix(".conf")
        config.write_text(CONFIG.format(port=port, data=data))
        return [self.path, "--config", config]

    def ready(self, server):
        return says(server.port, b"", b"INFO")


class NatsCore(Nats):
    name = "NATS core"
    remark = "keeps nothing: who is away misses what is published"
