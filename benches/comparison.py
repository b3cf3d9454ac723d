"""What is compared: a scenario, its contenders, and what each of them showed in each round."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from peers import tlog
from process import Failed

MILLION = 1_000_000


@dataclass
class Sample:
    """One measurement. Latencies in milliseconds, memory in bytes, processor time in seconds for `records`."""

    figure: float
    p50: float | None = None
    p99: float | None = None
    ack: float | None = None
    records: int | None = None
    server_cpu: float | None = None
    client_cpu: float | None = None
    peak: int | None = None


@dataclass
class Contender:
    """Who, and how to measure it once. What `prepare` makes is there in all rounds."""

    name: str
    kind: str
    measure: Callable[[], Sample]
    prepare: Callable[[], None]
    peer: object
    samples: list = field(default_factory=list)
    failure: str = ""

    def values(self, name):
        return [value for sample in self.samples if (value := getattr(sample, name)) is not None]

    def median(self, name="figure"):
        values = self.values(name)
        return statistics.median(values) if values else None

    def spread(self):
        """Lowest and highest."""
        figures = self.values("figure")
        return min(figures), max(figures)

    def cpu_per_million(self, name):
        told = [one for one in self.samples if one.records and getattr(one, name) is not None]
        costs = [getattr(one, name) / one.records * MILLION for one in told]
        return statistics.median(costs) if costs else None


@dataclass
class Scenario:
    """What is measured, in which unit, under what circumstances."""

    key: str
    title: str
    unit: str
    setting: str
    contenders: list
    less_is_better: bool = False
    acks: bool = False  # whether it rests on what an ack means
    finish: Callable[[], None] = lambda: None

    def of(self, kind):
        return next((c for c in self.contenders if c.kind == kind and c.samples), None)

    def run(self, rounds):
        """Interleaved: every contender in each round, another one first each time."""
        say(f"{self.key}: {self.title}")
        for contender in self.contenders:
            attempt(contender, contender.prepare)
        for number in range(rounds):
            first = number % len(self.contenders)
            for contender in self.contenders[first:] + self.contenders[:first]:
                if not contender.failure:
                    # Not all sync what they write: nobody is to wait for what another has left to the system.
                    os.sync()
                    attempt(contender, lambda: contender.samples.append(contender.measure()))
        for contender in self.contenders:
            if contender.samples:
                say(f"    {contender.name}: {', '.join(f'{s.figure:,.4g}' for s in contender.samples)} {self.unit}")
        self.finish()


def attempt(contender, action):
    """A contender that fails is out of the scenario, and the report says why."""
    try:
        action()
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        contender.failure = " ".join(str(failure).split())[:300]
        say(f"    {contender.name} FAILED: {contender.failure}")


class Bench:
    """What a run measures with: the sizes, the contenders that are there, a folder for data."""

    def __init__(self, sizes, folder):
        self.sizes, self.folder = sizes, folder

    def data(self, scenario, peer):
        return self.folder / scenario / "".join(c if c.isalnum() else "-" for c in peer.name.lower())

    def contender(self, scenario, peer, measure, prepare=None):
        """A peer in a scenario; both functions are given its data folder."""
        data = self.data(scenario, peer)
        ready = lambda: prepare(peer, data) if prepare else None
        return Contender(peer.name, peer.kind, lambda: measure(peer, data), ready, peer)

    def fresh(self, peer, data):
        """A server that begins with nothing; stopped, it leaves nothing."""
        return Fresh(peer, data)

    def drop(self, scenario):
        shutil.rmtree(self.folder / scenario, ignore_errors=True)

    def timed(self):
        return ("--seconds", self.sizes.seconds, "--warmup", self.sizes.warmup)


class Fresh:
    def __init__(self, peer, data):
        self.peer, self.data = peer, data

    def __enter__(self):
        shutil.rmtree(self.data, ignore_errors=True)
        self.server = self.peer.start(self.data)
        return self.server

    def __exit__(self, *_):
        self.server.stop()
        shutil.rmtree(self.data, ignore_errors=True)


def load(peer, server, command, *arguments):
    """What the generator saw, with what the server took meanwhile."""
    server.forget_peak()
    before = server.cpu_seconds()
    report = run(tlog.LOAD, command, "--protocol", peer.protocol, "--address", server.address, *arguments)
    report["server_cpu"] = server.cpu_seconds() - before
    report["peak"] = server.peak_bytes()
    return report


class Holding:
    """Followers that take what comes, while this is entered; then `bytes` is how much that was."""

    def __init__(self, peer, server, count, *arguments):
        words = [tlog.LOAD, "hold", "--protocol", peer.protocol, "--address", server.address, "--followers", count]
        self.words, self.count = [str(word) for word in (*words, *arguments)], count

    def __enter__(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line or json.loads(line)["followers"] != self.count:
            self.process.wait()
            raise Failed("not all could follow")
        return self

    def __exit__(self, *_):
        told, _ = self.process.communicate(timeout=60)
        self.bytes = json.loads(told)["bytes"] if self.process.returncode == 0 else 0


def run(*command):
    """A command that answers with a line of JSON."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        raise Failed(f"{Path(words[0]).name} {words[1]}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def sample(report, figure, records, latency="latency_ms"):
    latency = report.get(latency, {})
    return Sample(
        report[figure], latency.get("p50"), latency.get("p99"), report.get("ack_ms", {}).get("p50"), records,
        report["server_cpu"], report["cpu_seconds"], report["peak"],
    )


def recall_pages(folder):
    """Has the system cache a folder's files, or what it lets stay of them: pages that lay idle may have gone."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                while file.read(8 << 20):
                    pass


def forget_pages(folder):
    """Has the system forget what it has cached of a folder's files, so that they are read from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def say(what):
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
