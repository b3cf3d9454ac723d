"""TLog's 256 stores: how fast they take the log in, and how fast keys are read."""

import shutil
import time

from comparison import Sample, Scenario, load, run, sample
from peers import tlog
from peers.tlog import EmptyHandler, Tlog, stores
from process import Failed

KEYS = 100_000


def scenarios(bench, _):
    yield apply(bench)
    yield reads(bench)


def fill(peer, server, records):
    load(peer, server, "publish", "--connections", 8, "--batch", 1_000, "--keys", KEYS, "--count", records // 1_000)


def wait(server):
    while any(store["lag"] for store in stores(server)):
        time.sleep(0.01)


def apply(bench):
    key, records = "stores-apply", bench.sizes.store_records

    def prepare(peer, data):
        with peer.start(data) as server:
            fill(peer, server, records)

    def measure(peer, data):
        shutil.rmtree(data / "stores")
        with peer.start(data) as server:
            server.forget_peak()
            began, before = time.monotonic(), server.cpu_seconds()
            wait(server)
            seconds = time.monotonic() - began
            objects = sum(store["objects"] for store in stores(server))
            if objects != records:
                raise Failed(f"{objects} objects of {records} records")
            return Sample(records / seconds, records=records, server_cpu=server.cpu_seconds() - before,
                          peak=server.peak_bytes())

    setting = f"{records:,} records of 256 B with {KEYS:,} keys, all stores wiped before"
    return Scenario(key, "stores built from the log", "records/s", setting,
                    [bench.contender(key, Tlog(), measure, prepare)], finish=lambda: bench.drop(key))


def reads(bench):
    key, records = "stores-reads", bench.sizes.store_records

    def prepare(peer, data):
        if peer.kind == "tlog":
            with peer.start(data) as server:
                fill(peer, server, records)
                wait(server)

    def measure(peer, data):
        with peer.start(data) as server:
            server.rest()
            server.forget_peak()
            before = server.cpu_seconds()
            report = run(tlog.LOAD, "request", "--protocol", "tlog", "--address", server.address, "--shuffle",
                         "--range", KEYS, "--path", "/v1/namespaces/bench-0/keys/k-{10}", *bench.timed())
            report |= {"server_cpu": server.cpu_seconds() - before, "peak": server.peak_bytes()}
        return sample(report, "requests_per_second", report["all_requests"])

    setting = f"{KEYS:,} keys by chance, values of 256 B, 64 connections, 1 in flight on each; after a restart, at rest"
    return Scenario(key, "the latest value of a key, read over HTTP", "reads/s", setting,
                    [bench.contender(key, peer, measure, prepare) for peer in (EmptyHandler(), Tlog())],
                    finish=lambda: bench.drop(key))
