"""S2 lite on the local disk: an object store's semantics, so an append waits for a flush every 5 ms.

It listens on every address of the machine and can't be told otherwise; what is sent is sent over loopback."""

import json

from process import answers

from . import Peer, first_line

BASINS = {"basins": [{"name": "benchmark", "config": {"create_stream_on_append": True}}]}


class S2(Peer):
    name, protocol, program = "S2 lite", "s2", "s2"
    remark = "gathers appends for 5 ms, as for an object store"

    def version(self):
        return first_line(self.path, "--version")

    def command(self, data, port):
        basins = data.with_suffix(".json")
        basins.write_text(json.dumps(BASINS))
        return [self.path, "lite", "--local-root", data, "--port", port, "--init-file", basins, "--no-dashboard"]

    def ready(self, server):
        return answers(server.port, "GET", "/v1/basins")[0] == 200
