"""A server as a process: started, waited for, watched through /proc, and stopped by its id."""

import http.client
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

PATIENCE = 300
"""Seconds after which a server that is not ready never will be."""

REST_SECONDS, REST_SHARE = 0.5, 0.05
"""How long a server is watched at a time, and what it may take of a processor and be at rest."""

TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A process and those that it has started. Its output goes to `output`, a file."""

    def __init__(self, command, port, output, ready, pipe=False):
        began = time.monotonic()
        self.port = port
        with open(output, "ab") as file:
            stdin = subprocess.PIPE if pipe else subprocess.DEVNULL
            self.process = subprocess.Popen([str(word) for word in command], stdin=stdin, stdout=file, stderr=file)
        self.output = Path(output)
        try:
            while not ready(self):
                if self.process.poll() is not None:
                    raise Failed(f"{command[0]} ended: {self.said()}")
                if time.monotonic() - began > PATIENCE:
                    raise Failed(f"{command[0]} is not ready after {PATIENCE} s: {self.said()}")
                time.sleep(0.002)
        except BaseException:
            self.kill()
            raise
        self.seconds_to_ready = time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def said(self):
        return self.output.read_text(errors="replace")[-2000:].strip()

    def stop(self):
        """Asks it to end, and makes it where it does not."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(60)

    def pids(self):
        """Its own id, and its children's."""
        found, at = [self.process.pid], 0
        while at < len(found):
            found += [int(pid) for pid in read(f"/proc/{found[at]}/task/{found[at]}/children").split()]
            at += 1
        return found

    def cpu_seconds(self):
        """What it has had of the processors."""
        ticks = 0
        for pid in self.pids():
            words = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
            ticks += sum(map(int, words[11:13]))
        return ticks / TICKS

    def rest(self):
        """Waits until it has done what was left to do when it was filled: merges, and what only begins behind a start."""
        began, quiet = time.monotonic(), 0
        while quiet < 3:
            before = self.cpu_seconds()
            time.sleep(REST_SECONDS)
            quiet = quiet + 1 if self.cpu_seconds() - before < REST_SHARE * REST_SECONDS else 0
            if time.monotonic() - began > PATIENCE:
                raise Failed(f"{self.process.args[0]} is busy after {PATIENCE} s with nothing to do")

    def forget_peak(self):
        for pid in self.pids():
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                pass

    def peak_bytes(self):
        """Most memory that it has had since `forget_peak`, files that are mapped included."""
        return sum(kilobytes(f"/proc/{pid}/status", "VmHWM:") for pid in self.pids()) * 1024

    def memory_bytes(self):
        """What is its own, now: no files, and what processes share counted once."""
        names = ("Pss_Anon:", "Pss_Shmem:")
        return sum(kilobytes(f"/proc/{pid}/smaps_rollup", name) for pid in self.pids() for name in names) * 1024


class Failed(Exception):
    """A server or a load did not do what it should."""


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def kilobytes(path, name):
    return next((int(line.split()[1]) for line in read(path).splitlines() if line.startswith(name)), 0)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port, method, path, headers=()):
    """The status and the body of an HTTP request; nothing where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None, b""
    finally:
        connection.close()


def says(port, request, reply):
    """Whether whoever listens there begins its answer like this."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(request)
            return connection.recv(len(reply)) == reply
    except OSError:
        return False
