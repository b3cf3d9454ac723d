"""TLog, and two servers that do nothing: what HTTP costs by itself, and what writing to followers does."""

import json
import re
from pathlib import Path

from process import Server, answers

from . import Peer

TLOG, LOAD = Path("target/release/tlog"), Path("target/release/load")
"""The programs that are compared: set when the run begins."""


class Tlog(Peer):
    name, protocol, kind = "TLog", "tlog", "tlog"

    def __init__(self, *options):
        self.path, self.options = TLOG, options

    def command(self, data, port):
        return [TLOG, "serve", "--data", data, "--listen", f"127.0.0.1:{port}", *self.options]

    def ready(self, server):
        return answers(server.port, "GET", "/readyz")[0] == 200


class Tells(Peer):
    """A program of ours that says where it listens, and ends when its input does."""

    kind, arguments = "limit", ()

    def command(self, data, port):
        return [self.path, *self.arguments]

    def version(self):
        return ""

    def start(self, data):
        data.mkdir(parents=True, exist_ok=True)
        output = data.with_suffix(".log")
        output.write_bytes(b"")
        return Server(self.command(data, 0), 0, output, self.ready, pipe=True)

    def ready(self, server):
        found = re.search(r"^127\.0\.0\.1:(\d+)\n", server.output.read_text())
        server.port = int(found.group(1)) if found else 0
        return bool(found)


class EmptyHandler(Tells):
    name, protocol, arguments = "empty HTTP handler (axum)", "tlog", ("bench-empty-server",)

    def __init__(self):
        self.path = TLOG


class BareFanOut(Tells):
    name, protocol, arguments = "a write to each follower", "bare", ("bare-server",)

    def __init__(self):
        self.path = LOAD


def stores(server):
    """The 256 stores, as the broker tells of them."""
    return json.loads(answers(server.port, "GET", "/v1/stores")[1])["stores"]
