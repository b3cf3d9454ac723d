"""The contenders: one file each. How it is found, started on loopback with a data folder of its own, and asked whether
it is ready. A contender whose program is not there is skipped, and nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

from process import Server, free_port

FOLDERS = []
"""Where `make bench-peers` has put programs, beside the folders of PATH."""


class Peer:
    """A server that the load generator can drive."""

    name = ""
    protocol = ""
    program = ""
    kind = "peer"  # or "tlog", or "limit"
    synced = ""
    """Whether an ack waits for an fsync, once that was seen."""
    remark = ""
    """What a reader must know to take its figures as what they are."""

    def __init__(self):
        folders = [*map(str, FOLDERS), os.environ.get("PATH", ""), "/usr/sbin"]
        self.path = shutil.which(self.program, path=os.pathsep.join(folders))

    def version(self):
        """As its program tells it, in a few words."""
        return first_line(self.path, "--version")

    def command(self, data, port):
        raise NotImplementedError

    def ready(self, server):
        raise NotImplementedError

    def start(self, data):
        """The running server, once it is ready. `data` is kept when it stops."""
        data.mkdir(parents=True, exist_ok=True)
        port = free_port()
        return Server(self.command(data.resolve(), port), port, data.with_suffix(".log"), self.ready)


def first_line(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def cargo_version(program, crate):
    """The version of a crate as `cargo install` has noted it beside the programs."""
    notes = Path(program).resolve().parent.parent / ".crates.toml"
    for line in notes.read_text().splitlines() if notes.is_file() else []:
        if line.startswith(f'"{crate} '):
            return f"{crate} {line.split()[1]}"
    return crate
