#!/usr/bin/env python3
"""TLog's main job on real input: this machine's own package database.

A record a package, keyed by its name, a namespace per section. It publishes them one by one with a follower
running, rebuilds every namespace from the log and has each chain proved, compares its counts with ones made
without TLog, reads every key from the stores, wipes one store and reads again. Any difference ends it with
a non-zero status. Needs nothing but Python and the binary, and leaves nothing behind.

    demo.py TLOG_BINARY [STATUS_FILE]
"""

import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from pathlib import Path

PATIENCE = 60  # seconds to wait for anything


def main():
    tlog = Path(sys.argv[1]).resolve()
    status_file = Path(sys.argv[2] if len(sys.argv) > 2 else "/var/lib/dpkg/status")
    if not status_file.exists():
        fail(f"{status_file} is not there: this is not a Debian? Name another file of that form")
    text = status_file.read_text(encoding="utf-8", errors="replace")
    packages = list(parse(text))
    sections = Counter(section(package) for package in packages)

    with tempfile.TemporaryDirectory(prefix="tlog-demo-") as folder:
        process, address = serve(tlog, Path(folder) / "data")
        try:
            say(f"serving on http://{address}, from an empty folder")
            run(Broker(address), tlog, Path(folder), text, packages, sections)
        finally:
            process.terminate()
            process.wait(PATIENCE)
        check(process.returncode == 0, "the broker left with another status than 0")
        say(f"SIGTERM: the broker finished what was in flight and left with status {process.returncode}")
        checked = subprocess.run([tlog, "check", "--data", Path(folder) / "data"], capture_output=True, text=True)
        check(checked.returncode == 0, f"tlog check: {checked.stderr.strip()}")
        say(f"tlog check, offline, of every CRC, offset and chain: {' '.join(checked.stdout.split())}")


def run(broker, tlog, folder, text, packages, sections):
    for name in sections:
        broker.call("PUT", namespace(name))
    follower = Follower(broker, sections, len(packages))

    began = time.monotonic()
    records = [broker.publish(section(package), package["Package"], package) for package in packages]
    seconds = time.monotonic() - began
    say(
        f"published {len(records)} packages to {len(sections)} namespaces, one by one: "
        f"{1000 * seconds / len(records):.2f} ms each, each durable before the next"
    )

    seen = follower.result()
    # Order is a namespace's own: what was published to two of them may arrive either way round.
    published = [(section(package), package["Package"]) for package in packages]
    in_order = lambda pairs: sorted(pairs, key=lambda pair: pair[0])
    check(in_order(seen) == in_order(published), "the follower saw something else than was published")
    say(f"a follower of all {len(sections)} namespaces, on one connection, saw each of the {len(seen)} once, in order")

    rebuilt, rebuilt_bytes = {}, 0
    for name in sections:
        out = folder / "rebuilt"
        report = command(tlog, broker, "rebuild", name, "--out", out, "--json")
        rebuilt_bytes += out.stat().st_size
        head = broker.call("GET", namespace(name))
        check(report["chain"] == head["chain"], f"{name}: the chain is another than the broker's")
        check("lost" not in report, f"{name}: records were lost: {report}")
        rebuilt[name] = report["records"]
        out.unlink()
    say(
        f"rebuilt all {len(rebuilt)} namespaces from the log ({rebuilt_bytes:,} bytes): every chain computed here is the broker's"
    )

    # The other count is made by grep's means, not by the parser above.
    lines = len(re.findall(r"^Package: ", text, re.MULTILINE))
    say(f"records rebuilt: {sum(rebuilt.values())}; lines that begin with \"Package: \" in the file: {lines}")
    check(sum(rebuilt.values()) == lines, "the counts differ")
    by_line = Counter(re.findall(r"^Section: (.+)$", text, re.MULTILINE))
    check(all(rebuilt[name] == by_line[name] for name in sections if name != "unknown"), "a section's counts differ")
    say("largest sections: " + ", ".join(f"{name} {count}" for name, count in by_line.most_common(5)) + "; TLog agrees")

    latest = {(section(p), p["Package"]): p for p in packages}
    offsets = {key: reply["first_offset"] for key, reply in zip(published, records)}
    stored = {key: broker.get_key(*key, offsets[key]) for key in latest}
    check(all(stored[key]["value"] == latest[key] for key in latest), "a key's value is not what was published")
    name, package = min(latest, key=lambda key: (key[1] != "libc6", key[1]))
    record = stored[name, package]
    say(f"read {len(stored)} keys from the stores, all as published: {package} is {record['value'].get('Version')}, object {record['id']}")

    shard, count = Counter(int(record["id"][:2], 16) for record in stored.values()).most_common(1)[0]
    before = broker.store(shard)
    broker.call("POST", f"/v1/stores/{shard}/rebuild")
    other = next(key for key in stored if int(stored[key]["id"][:2], 16) != shard)
    check(broker.get_key(*other) == stored[other], "a key of another store can't be read meanwhile")
    after = broker.settled_store(shard, before["objects"])
    say(
        f"wiped store {shard} and rebuilt it from the log, while the other 255 served: "
        f"{before['objects']} objects before, {after['objects']} after"
    )
    again = {key: broker.get_key(*key) for key in stored if int(stored[key]["id"][:2], 16) == shard}
    check(len(again) == count and all(again[key] == stored[key] for key in again), "a key reads differently after it")
    say(f"read its {count} keys again: the same, to the id and the time")


def parse(text):
    """The stanzas of a status file, each a dict of its fields; a field's further lines keep their breaks."""
    for stanza in text.split("\n\n"):
        package, field = {}, None
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                package[field] += "\n" + line[1:]
            elif line:
                field, _, value = line.partition(":")
                package[field] = value.strip()
        if package:
            yield package


def section(package):
    return package.get("Section", "unknown")


def namespace(name, rest=""):
    return "/v1/namespaces/" + urllib.parse.quote(name, safe="") + rest


def serve(tlog, data):
    """Starts the broker on a free port; answers the process and where it listens."""
    arguments = [tlog, "serve", "--data", data, "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"listening on http://([0-9.:]+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found.group(1)
    fail("the broker does not start:\n" + "".join(said))


class Broker:
    """The calls of TLog's HTTP interface that this needs, over one kept connection."""

    def __init__(self, address):
        self.address = address
        self.connection = http.client.HTTPConnection(address, timeout=PATIENCE)

    def call(self, method, path, body=None):
        headers = {} if body is None else {"Content-Type": "application/json"}
        self.connection.request(method, path, body if body is None else json.dumps(body), headers)
        response = self.connection.getresponse()
        content = response.read()
        check(response.status < 300, f"{method} {path}: {response.status} {content.decode(errors='replace')}")
        return json.loads(content) if content else None

    def publish(self, name, key, value):
        return self.call("POST", namespace(name, "/records"), {"key": key, "value": value})

    def get_key(self, name, key, min_offset=None):
        query = "" if min_offset is None else f"?min_offset={min_offset}"
        return self.call("GET", namespace(name, "/keys/" + urllib.parse.quote(key, safe="")) + query)

    def store(self, shard):
        return next(store for store in self.call("GET", "/v1/stores")["stores"] if store["shard"] == shard)

    def settled_store(self, shard, objects):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            store = self.store(shard)
            if store["objects"] == objects and store["lag"] == 0 and not store.get("rebuilding"):
                return store
            time.sleep(0.01)
        fail(f"store {shard} does not come back: {self.store(shard)}")


class Follower:
    """Follows many namespaces over one connection of Server-Sent Events, on a thread of its own."""

    def __init__(self, broker, names, count):
        self.connection = http.client.HTTPConnection(broker.address, timeout=PATIENCE)
        self.connection.request("GET", "/v1/events?" + urllib.parse.urlencode([("namespace", name) for name in names]))
        self.response = self.connection.getresponse()
        check(self.response.status == 200, f"following: {self.response.status}")
        self.seen, self.resets, self.count = [], [], count
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        event = ""  # a plain message is a record; the only other one says that records were lost
        while len(self.seen) < self.count and (line := self.response.readline()):
            if line == b"\n":
                event = ""
            elif line.startswith(b"event:"):
                event = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                if event:
                    self.resets.append(line[5:].decode().strip())
                    continue
                record = json.loads(line[5:])
                self.seen.append((record["namespace"], record["key"]))

    def result(self):
        self.thread.join(PATIENCE)
        self.connection.close()
        check(not self.resets, f"the follower was told that records were lost: {self.resets}")
        return self.seen


def command(tlog, broker, *arguments):
    """Runs a client command that answers in JSON."""
    process = subprocess.run([tlog, *arguments, "--url", f"http://{broker.address}"], capture_output=True, text=True)
    check(process.returncode == 0, f"tlog {' '.join(map(str, arguments))}: {process.stderr.strip()}")
    return json.loads(process.stdout)


def say(line):
    print(f"· {line}", flush=True)


def check(holds, otherwise):
    if not holds:
        fail(otherwise)


def fail(reason):
    sys.exit(f"demo: {reason}")


if __name__ == "__main__":
    main()
