#!/usr/bin/env python3
"""A lock: three clients hold one printer for five seconds each, in turn. In the second turn the broker is killed.

The printer takes pages only with a token that is no lower than one that it has seen. Who holds the lock is drawn as it
goes: a row is half a second. At the end the turns are compared with what was asked: one at a time, in the order of
arrival, tokens that grow. Any difference ends it with a non-zero status. Needs nothing but Python and the binary, and
leaves nothing behind.

    lock.py TLOG_BINARY
"""

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PATIENCE = 60  # seconds to wait for anything
TURN, TTL_MS = 5, 3000  # a turn is longer than the lock is held without a word: so it is extended
CLIENTS = ["anna", "ben", "cleo"]
COLORS = {"anna": 36, "ben": 33, "cleo": 35}


def main():
    tlog = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="tlog-lock-") as folder:
        broker = Broker(tlog, Path(folder) / "data")
        try:
            run(broker)
        finally:
            broker.stop()


def run(broker):
    say(f"serving on {broker.address}; a turn takes {TURN} s, and the lock lapses {TTL_MS / 1000:g} s after the last word "
        "of its holder")
    printer = Printer()
    clients = [Client(name, broker.address, printer) for name in CLIENTS]
    for client in clients:
        client.start()
        client.queued.wait(PATIENCE)
    threading.Thread(target=kill_in_second_turn, args=(broker, clients[1]), daemon=True).start()
    began = time.monotonic()
    while any(client.is_alive() for client in clients):
        row = "  ".join(paint(COLORS[client.name], f"{client.shown():<18}") for client in clients)
        print(f"{time.monotonic() - began:5.1f} s  {row}", flush=True)
        time.sleep(0.5)
        check(time.monotonic() - began < PATIENCE, "the turns do not end")
    compare(clients, printer)


def kill_in_second_turn(broker, holder):
    """kill -9 while the lock is held, and a new broker on the same folder."""
    holder.holds.wait(PATIENCE)
    time.sleep(TURN / 3)
    broker.kill()
    print(paint(31, f"         the broker is killed (SIGKILL); {holder.name} prints on"), flush=True)
    time.sleep(1)
    broker.serve()
    held = call(broker.address, "GET", "/v1/locks/printer")[1]
    check(held["owner"] == holder.name, f"another holds it: {held}")
    print(paint(32, f"         it is back, and knows: held by {held['owner']} with token {held['token']}"), flush=True)


def compare(clients, printer):
    """What was printed, against what was asked."""
    check(all(client.error is None for client in clients), f"{[client.error for client in clients]}")
    turns = [(name, token) for index, (name, token, _) in enumerate(printer.pages)
             if index == 0 or printer.pages[index - 1][:2] != (name, token)]
    check([name for name, _ in turns] == CLIENTS, f"the turns are others: {turns}")
    tokens = [token for _, token in turns]
    check(tokens == sorted(set(tokens)), f"tokens do not grow: {tokens}")
    say(f"{len(printer.pages)} pages, one client at a time, in the order of arrival; tokens {tokens} only grow")
    check(not printer.print("anna", tokens[0]), "a page with an old token was taken")
    say(f"anna comes late with token {tokens[0]}: the printer has seen {tokens[-1]}, and refuses")


class Printer:
    """What only one may use at a time, and that knows an old token when it sees one."""

    def __init__(self):
        self.pages, self.highest, self.guard = [], -1, threading.Lock()

    def print(self, name, token):
        with self.guard:
            if token < self.highest:
                return False
            self.highest = token
            self.pages.append((name, token, time.monotonic()))
            return True


class Client(threading.Thread):
    """Asks for the lock, prints for its turn, and gives the lock back."""

    def __init__(self, name, address, printer):
        super().__init__(name=name, daemon=True)
        self.address, self.printer = address, printer
        self.queued, self.holds, self.token, self.error, self.released = threading.Event(), threading.Event(), None, None, False

    def shown(self):
        if self.released:
            return ""
        return f"{self.name:<4} ████ token {self.token}" if self.holds.is_set() else f"{self.name:<4} ·  waits"

    def run(self):
        try:
            held = self.ask()
            self.token = held["token"]
            self.holds.set()
            until = time.monotonic() + TURN
            while time.monotonic() < until:
                check(self.printer.print(self.name, self.token), f"{self.name}'s token is refused")
                time.sleep(0.5)
                self.settle("extend", {"token": self.token, "ttl_ms": TTL_MS})
            self.released = True
            self.settle("release", {"token": self.token})
        except (SystemExit, OSError) as error:
            self.error = error

    def ask(self):
        """Waits for the lock. Where the connection breaks it asks again: the owner is the same, so that is safe."""
        body = {"owner": self.name, "ttl_ms": TTL_MS, "wait_ms": 60_000}
        while True:
            # The broker has it in its queue soon: the next client comes behind.
            threading.Timer(0.2, self.queued.set).start()
            try:
                status, answer = call(self.address, "POST", "/v1/locks/printer", body)
                check(status == 200, f"{self.name} asks: {answer}")
                return answer
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)

    def settle(self, what, body):
        """Tells the broker, for as long as the lock is surely held while the broker is away."""
        until = time.monotonic() + TTL_MS / 1000
        while True:
            try:
                status, answer = call(self.address, "POST", f"/v1/locks/printer/{what}", body)
                return check(status < 300, f"{self.name}: {what}: {answer}")
            except (OSError, http.client.HTTPException):
                check(time.monotonic() < until, f"{self.name} has lost the lock")
                time.sleep(0.1)


class Broker:
    """A broker that comes back where it was."""

    def __init__(self, binary, data):
        self.binary, self.data, self.address = binary, data, "127.0.0.1:0"
        self.serve()

    def serve(self):
        arguments = [self.binary, "serve", "--data", self.data, "--listen", self.address]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.process.stderr:
            said += line
            if found := re.search(r"listening on http://([0-9.:]+)", line):
                self.address = found.group(1)
                break
        else:
            raise SystemExit(f"the broker does not start:\n{said}")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


def call(address, method, path, body=None):
    connection = http.client.HTTPConnection(address, timeout=PATIENCE + 10)
    try:
        connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


def paint(color, text):
    return f"\x1b[{color}m{text}\x1b[0m" if os.isatty(sys.stdout.fileno()) else text


def say(what):
    print(paint(1, what), flush=True)


def check(holds, otherwise):
    if not holds:
        raise SystemExit(f"FAILED: {otherwise}")


if __name__ == "__main__":
    main()
