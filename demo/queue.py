#!/usr/bin/env python3
"""A work queue: three workers share jobs; one is killed with work in hand, and one job can't be done.

The jobs of a customer are done one after another, whoever does them. The killed worker's jobs go to the others
when its leases end; the job that always fails becomes a dead letter, is repaired and sent back. Then the log of
what the workers did is compared with what was published. Any difference ends it with a non-zero status. Needs
nothing but Python and the binary, and leaves nothing behind.

    queue.py TLOG_BINARY
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
from collections import Counter, defaultdict
from pathlib import Path

PATIENCE = 60  # seconds to wait for anything
JOBS, CUSTOMERS, POISON = 60, 6, 33
WORKERS = ["anna", "ben", "cleo"]
COLORS = {"anna": 36, "ben": 33, "cleo": 35}

# What a worker runs for each job: it reads the record from stdin, and takes a while.
DO = """
import json, sys, time, pathlib
name, done, repaired = sys.argv[1:]
record = json.load(sys.stdin)
job = record["value"]["job"]
time.sleep(0.1)
if job == %d and not pathlib.Path(repaired).exists():
    sys.exit(f"job {job}: the printer is on fire")
with open(done, "a") as file:
    file.write(f"{name} {job} {record['key']}\\n")
print(f"{job} {record['key']}", flush=True)
""" % POISON


def main():
    tlog = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="tlog-queue-") as folder:
        broker = Broker(tlog, Path(folder) / "data")
        try:
            say(f"serving on {broker.url}, from an empty folder")
            run(broker, Path(folder))
        finally:
            broker.stop()


def run(broker, folder):
    jobs = "".join(
        json.dumps({"key": f"customer-{job % CUSTOMERS}", "value": {"job": job}}) + "\n" for job in range(JOBS)
    )
    broker.call("PUT", "/v1/namespaces/jobs")
    broker.tlog("group", "create", "jobs", "crew", "--order", "key", "--lease-ms", 2000, "--max-deliveries", 3,
                "--retry-min-ms", 200, "--dead-letter", "jobs-dead")
    broker.call("POST", "/v1/namespaces/jobs/records", jobs, "application/x-ndjson")
    say(f"published {JOBS} jobs of {CUSTOMERS} customers; a group hands each customer's out in order")

    workers = {name: Worker(broker, name, folder) for name in WORKERS}
    broker.until(lambda group: group["floor"] >= JOBS // 5)
    victim = workers["ben"]
    held = next(w["in_flight"] for w in broker.group()["workers"] if w["name"] == "ben")
    victim.kill()
    say(f"ben is killed (SIGKILL) with {held} job(s) in hand; nobody tells the broker")

    group = broker.until(lambda group: group["lag"]["records"] == 0)
    say(f"all are settled: {group['delivered']} deliveries, {group['redelivered']} of them again, "
        f"{group['dead_lettered']} given up")
    letter = broker.until_letter()
    headers = letter["headers"]
    check(headers["tlog-offset"] == str(POISON), f"the dead letter is another: {letter}")
    say(f"dead letter: job {letter['value']['job']} after {headers['tlog-deliveries']} deliveries: "
        f"{headers['tlog-error']}")

    (folder / "repaired").touch()
    say("the printer is repaired; " + broker.tlog("group", "redrive", "jobs", "crew").strip())
    broker.until(lambda group: group["lag"]["records"] == 0)
    for name in ("anna", "cleo"):
        workers[name].drain()
    say("SIGTERM: anna and cleo finished what they had, and left")
    print(broker.tlog("groups", "jobs", "crew"))
    compare(folder)


def compare(folder):
    """What was done, against what was published."""
    done = [line.split() for line in (folder / "done").read_text().splitlines()]
    counts = Counter(int(job) for _, job, _ in done)
    check(set(counts) == set(range(JOBS)), f"not done: {set(range(JOBS)) - set(counts)}")
    again = [job for job, count in counts.items() if count > 1]
    by_key = defaultdict(list)
    for _, job, key in done:
        by_key[key].append(int(job))
    for key, order in by_key.items():
        once = [job for job in dict.fromkeys(order) if job != POISON]
        check(once == sorted(once), f"{key} is out of order: {order}")
    by_worker = ", ".join(f"{name} {count}" for name, count in sorted(Counter(name for name, _, _ in done).items()))
    say(f"each of the {JOBS} jobs is done, each customer's in order ({by_worker})")
    if again:
        say(f"done twice, as ben had no time to say that it was done: {sorted(again)}")


class Worker:
    """`tlog work`, with what it prints shown as it comes."""

    def __init__(self, broker, name, folder):
        self.name = name
        arguments = [sys.executable, "-c", DO, name, folder / "done", folder / "repaired"]
        self.process = subprocess.Popen(
            [broker.binary, "work", "jobs", "crew", "--name", name, "--concurrency", "2", "--url", broker.url, "--"]
            + arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for stream, ok in ((self.process.stdout, True), (self.process.stderr, False)):
            threading.Thread(target=self.show, args=(stream, ok), daemon=True).start()

    def show(self, stream, ok):
        for line in stream:
            text = f"  {self.name:>5}  {'done' if ok else '    '}  {line.rstrip()}"
            print(paint(COLORS[self.name] if ok else 31, text), flush=True)

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)

    def drain(self):
        self.process.terminate()
        check(self.process.wait(PATIENCE) == 0, f"{self.name} left with another status than 0")


class Broker:
    """A broker on a free port."""

    def __init__(self, binary, data):
        self.binary = binary
        arguments = [binary, "serve", "--data", data, "--listen", "127.0.0.1:0"]
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
        self.url = f"http://{self.address}"

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)

    def call(self, method, path, body=None, media="application/json"):
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        connection.request(method, path, body, {"Content-Type": media})
        response = connection.getresponse()
        answer = json.loads(response.read() or b"null")
        check(response.status < 300, f"{method} {path}: {response.status} {answer}")
        connection.close()
        return answer

    def tlog(self, *arguments):
        process = subprocess.run([self.binary, *map(str, arguments), "--url", self.url], capture_output=True, text=True)
        check(process.returncode == 0, f"tlog {arguments}: {process.stderr.strip()}")
        return process.stdout

    def group(self):
        return self.call("GET", "/v1/namespaces/jobs/groups/crew")

    def until(self, holds):
        """The group's state, once something holds of it."""
        began = time.monotonic()
        while not holds(group := self.group()):
            check(time.monotonic() - began < PATIENCE, f"the work does not go on: {group}")
            time.sleep(0.05)
        return group

    def until_letter(self):
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE:
            names = [namespace["name"] for namespace in self.call("GET", "/v1/namespaces")["namespaces"]]
            if "jobs-dead" in names:
                return self.call("GET", "/v1/namespaces/jobs-dead/records?from=0&wait=10000")["records"][0]
            time.sleep(0.05)
        fail("there is no dead letter")


def paint(color, text):
    return f"\x1b[{color}m{text}\x1b[0m" if os.isatty(sys.stdout.fileno()) else text


def say(what):
    print(paint(1, what), flush=True)


def check(holds, otherwise):
    if not holds:
        fail(otherwise)


def fail(why):
    raise SystemExit(f"FAILED: {why}")


if __name__ == "__main__":
    main()
