#!/usr/bin/env python3
"""TLog's speed over HTTP, as ratios to what this machine can do, in one run.

    speed.py TLOG_BINARY [--seconds N] [--rounds N] [--json]

Each figure stands beside its floor. Nothing here fails where one is missed: a busy machine is no defect.
Needs nothing but Python and the binary. Its data folder is made beside the binary, on a disk and not in
memory, and is removed.
"""

import argparse
import http.client
import json
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

MILLION = 1_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tlog", type=Path)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement; the median counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    speed = Speed(options.tlog.resolve(), options.seconds, options.rounds)
    with tempfile.TemporaryDirectory(prefix="speed-", dir=options.tlog.resolve().parent) as folder:
        rows = speed.measure(Path(folder))
    if options.json:
        print(json.dumps([row.__dict__ for row in rows], indent=2))
    else:
        print_table(rows)


class Row:
    """A figure, what it is held against, and its floor; better is higher but where `most` is set."""

    def __init__(self, what, figure, unit, ratio, of, floor, most=False):
        self.what, self.figure, self.unit, self.ratio, self.of = what, figure, unit, ratio, of
        self.floor, self.reached = floor, (ratio <= floor if most else ratio >= floor)
        self.bound = f"{'at most' if most else 'at least'} {floor:g}"


class Speed:
    def __init__(self, tlog, seconds, rounds):
        self.tlog, self.seconds, self.rounds = tlog, seconds, rounds

    def measure(self, folder):
        with Broker(self.tlog, folder / "publish") as broker:
            rows = [
                self.singles(broker, 1),
                self.singles(broker, 64),
                self.batches(broker, 1),
                self.batches(broker, 8),
                self.alone(broker, folder),
                self.room(broker),
            ]
        shutil.rmtree(folder / "publish")
        with Broker(self.tlog, folder / "rebuild") as broker:
            rows.append(self.rebuild(broker))
            rows.append(self.group(broker))
        rows.append(self.stores(folder / "rebuild", "without keys"))
        shutil.rmtree(folder / "rebuild")
        with Broker(self.tlog, folder / "keys") as broker:
            self.million(broker, "--namespaces", 8, "--keys", 100_000)
        rows.append(self.stores(folder / "keys", "with keys"))
        return rows

    def bench(self, broker, *arguments):
        return command(self.tlog, "bench", "--url", broker.url, "--json", *arguments)

    def timed(self, broker, *arguments):
        return self.bench(broker, "--duration", self.seconds, *arguments)

    def median(self, measure, key):
        """The round whose figure is the median."""
        return sorted((measure() for _ in range(self.rounds)), key=key)[self.rounds // 2]

    def singles(self, broker, namespaces):
        say(f"single records, 64 connections, {namespaces} namespace(s), beside a server that does nothing")
        measure = lambda: self.timed(broker, "--connections", 64, "--namespaces", namespaces, "--baseline")
        report = self.median(measure, lambda report: report["of_baseline"])
        empty = report["baseline"]["requests_per_second"]
        what = f"single records of 256 B, 64 connections, {namespaces} namespace(s)"
        return Row(what, report["requests_per_second"], "/s", report["of_baseline"], f"of an empty handler's {empty:,.0f}/s", 0.5)

    def batches(self, broker, namespaces):
        say(f"batches of 1000, 8 in flight, {namespaces} namespace(s)")
        measure = lambda: self.timed(broker, "--connections", 8, "--batch", 1000, "--namespaces", namespaces)
        rate = self.median(measure, lambda report: report["records_per_second"])["records_per_second"]
        what = f"batches of 1000 of 256 B, 8 in flight, {namespaces} namespace(s)"
        return Row(what, rate, " records/s", rate / 400_000, "of 400,000/s", 1)

    def alone(self, broker, folder):
        say("one publisher, one in flight, beside fdatasync alone")

        def measure():
            limits = command(self.tlog, "bench", "--limits", folder, "--json")["fdatasync"][0]
            publish = self.timed(broker, "--connections", 1)
            return publish["latency_ms"]["p50"], limits["p50_ms"]

        publish, sync = self.median(measure, lambda pair: pair[0] / pair[1])
        return Row("one publisher, one in flight, p50", publish, " ms", publish / sync, f"times fdatasync's {sync:.3f} ms", 3, most=True)

    def room(self, broker):
        """Turns about, so that a machine that is busy for a while is so for both."""
        say("one publisher, one in flight, to a room of two who are connected, and without")
        alone = lambda: self.timed(broker, "--connections", 1, "--keys", 1, "--format", "json")["latency_ms"]["p50"]

        def measure():
            without = alone()
            rooms = json.dumps({"rooms": [{"namespace": "bench-0", "key": "k-0000000000"}]})
            names = ["first", "second"]
            for name in names:
                broker.call("PUT", f"/v1/subscribers/{name}", rooms)
            streams = [broker.follow(f"/v1/subscribers/{name}/events") for name in names]
            with_two = alone()
            taken = [stream.stop() for stream in streams]
            for name in names:
                broker.call("DELETE", f"/v1/subscribers/{name}")
            assert min(taken) > 1000, taken
            return with_two, without

        with_two, without = self.median(measure, lambda pair: pair[0] / pair[1])
        of = f"times {without:.3f} ms without rooms"
        return Row("the same to a room of two who are connected, p50", with_two, " ms", with_two / without, of, 1.3, most=True)

    def million(self, broker, *arguments):
        report = self.bench(broker, "--connections", 8, "--batch", 1000, "--count", 1000, *arguments)
        assert report["records"] == MILLION, report

    def rebuild(self, broker):
        say("rebuild of a million records, verified")
        self.million(broker)

        def measure():
            began = time.monotonic()
            report = command(self.tlog, "rebuild", "bench-0", "--url", broker.url, "--json")
            assert report["records"] == MILLION, report
            return MILLION / (time.monotonic() - began)

        rate = statistics.median(measure() for _ in range(self.rounds))
        return Row("rebuild of 1,000,000 of 256 B, verified", rate, " records/s", rate / MILLION, "of 1,000,000/s", 1)

    def stores(self, data, how):
        say(f"stores built from a million records {how}")

        def measure():
            shutil.rmtree(data / "stores")
            with Broker(self.tlog, data) as broker:
                began = time.monotonic()
                while any(store["lag"] for store in broker.stores()):
                    time.sleep(0.02)
                seconds = time.monotonic() - began
                objects = sum(store["objects"] for store in broker.stores())
                assert objects == MILLION, objects
            return MILLION / seconds

        rate = statistics.median(measure() for _ in range(self.rounds))
        return Row(f"stores apply records {how}", rate, " records/s", rate / 200_000, "of 200,000/s", 1)


    def group(self, broker):
        say("a million records leased by 8 workers, and acked 100 at a time")

        def measure(number):
            group = f"/v1/namespaces/bench-0/groups/g{number}"
            broker.put(group)
            report = command(self.tlog, "bench-work", "bench-0", f"g{number}", "--url", broker.url, "--json")
            assert report["records"] == MILLION, report
            return report["records_per_s"]

        rate = statistics.median(measure(number) for number in range(self.rounds))
        return Row("8 workers, leases and acks of 100 of 256 B", rate, " records/s", rate / 150_000, "of 150,000/s", 1)


class Broker:
    """A broker on a free port."""

    def __init__(self, tlog, data):
        arguments = [tlog, "serve", "--data", data, "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.process.stderr:
            said += line
            if found := re.search(r"listening on http://([0-9.:]+)", line):
                self.address = found.group(1)
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                break
        else:
            raise SystemExit(f"the broker does not start:\n{said}")
        self.url = f"http://{self.address}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(60)

    def put(self, path):
        self.call("PUT", path)

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        answer = connection.getresponse()
        assert answer.status in (200, 201, 204), (method, path, answer.status, answer.read())
        connection.close()

    def follow(self, path):
        return Stream(self.address, path)

    def stores(self):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        connection.request("GET", "/v1/stores")
        stores = json.loads(connection.getresponse().read())["stores"]
        connection.close()
        return stores


class Stream:
    """An event stream that is read, and not looked at."""

    def __init__(self, address, path):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n".encode())
        self.opened = self.bytes = len(self.socket.recv(1 << 16))
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        while count := len(self.socket.recv(1 << 20)):
            self.bytes += count

    def stop(self):
        """How much has come since it was opened."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.reader.join(60)
        self.socket.close()
        return self.bytes - self.opened


def command(*arguments):
    """Runs a command that answers in JSON."""
    process = subprocess.run(list(map(str, arguments)), capture_output=True, text=True)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}: {process.stderr.strip()}")
    return json.loads(process.stdout)


def say(what):
    print(f"measuring: {what}", flush=True)


def print_table(rows):
    figures = [f"{row.figure:,.0f}{row.unit}" if row.figure > 100 else f"{row.figure:.3f}{row.unit}" for row in rows]
    ratios = [f"{row.ratio:.2f} {row.of}" for row in rows]
    widths = [max(map(len, column)) for column in ([row.what for row in rows], figures, ratios)]
    print()
    for row, figure, ratio in zip(rows, figures, ratios):
        cells = (row.what.ljust(widths[0]), figure.rjust(widths[1]), ratio.ljust(widths[2]))
        print("  ".join(cells), f"({row.bound}: {'reached' if row.reached else 'MISSED'})", sep="  ")


if __name__ == "__main__":
    main()
