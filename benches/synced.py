"""Whether an ack waits for an fsync: not as documents say, but as strace sees it."""

import shutil
import signal
import subprocess
import tempfile
import time

from comparison import load
from process import Failed

CALLS = "fsync,fdatasync,msync,sync_file_range"
PUBLISHES = 50


def seen(peer, data):
    """`yes` where one publisher that waits for each ack has the server sync at least once for each; else `no`."""
    if not shutil.which("strace"):
        return "?"
    with peer.start(data) as server, tempfile.NamedTemporaryFile("r") as calls:
        load(peer, server, "publish", "--connections", 1, "--count", 1)
        command = ["strace", "-f", "-qq", "-e", f"trace={CALLS}", "-o", calls.name]
        command += [word for pid in server.pids() for word in ("-p", str(pid))]
        nowhere = subprocess.DEVNULL
        tracer = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        try:
            attached(server, tracer)
            load(peer, server, "publish", "--connections", 1, "--count", PUBLISHES, "--made")
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(30)
        # A call that another thread's interrupts is two lines, of which one says that it is resumed.
        synced = sum("sync" in line and "resumed" not in line for line in calls)
    return "yes" if synced >= PUBLISHES else "no"


def attached(server, tracer):
    deadline = time.monotonic() + 20
    while "TracerPid:\t0\n" in status(server):
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise Failed("strace can't attach")
        time.sleep(0.01)
    # The other threads follow the first.
    time.sleep(0.2)


def status(server):
    with open(f"/proc/{server.process.pid}/status") as file:
        return file.read()
