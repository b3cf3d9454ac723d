"""Replay: all of a stream that is alone; and, cold, of one that is a thousandth of what is in its partition."""

import json

from comparison import Sample, Scenario, forget_pages, load, recall_pages, run, sample
from peers import tlog
from peers.tlog import EmptyHandler, Tlog
from process import answers

THOUSAND = 1_000


def scenarios(bench, peers):
    yield alone(bench, peers)
    yield thousandth(bench)


def fill(peer, server, records):
    """One stream, in batches of a thousand."""
    load(peer, server, "publish", "--connections", 8, "--batch", THOUSAND, "--count", records // THOUSAND)


def alone(bench, peers):
    key, records = "replay", bench.sizes.replay_records

    def loopback(_, data):
        return Sample(run(tlog.LOAD, "limits")["loopback_records_per_second"])

    def prepare(peer, data):
        with peer.start(data) as server:
            fill(peer, server, records)

    def measure(peer, data):
        with peer.start(data) as server:
            server.rest()
            recall_pages(data)
            report = load(peer, server, "replay", "--records", records)
        return sample(report, "records_per_second", records)

    limit = bench.contender(key, EmptyHandler(), loopback)
    limit.name = "loopback, one connection"
    setting = (f"{records:,} records of 256 B, one stream, one connection, from the page cache after a restart, at rest; "
               "TLog's client verifies every CRC, offset, id and the chain, the others' only count")
    return Scenario(key, "replay of a stream", "records/s", setting,
                    [limit, *(bench.contender(key, peer, measure, prepare) for peer in peers.durable_once)],
                    finish=lambda: bench.drop(key))


def thousandth(bench):
    """The same number of records, by themselves and among a thousand times as many."""
    key, records = "replay-thousandth", bench.sizes.thousandth_records

    def contender(name, kind, streams):
        peer = Tlog("--partitions", 1)
        peer.name, peer.kind = name, kind

        def prepare(peer, data):
            with peer.start(data) as server:
                # Ten records a batch, so that the stream lies all over the partition.
                load(peer, server, "publish", "--connections", 8, "--batch", 10, "--streams", streams, "--count", 1)
                rest = ("--made",) if streams > 1 else ()
                load(peer, server, "publish", "--connections", min(8, streams), "--batch", 10, "--streams", streams,
                     "--count", streams * records // 10, *rest)
                counts[name] = next_offset(server)

        def measure(peer, data):
            forget_pages(data)
            with peer.start(data) as server:
                server.rest()
                forget_pages(data)
                report = load(peer, server, "replay", "--records", counts[name])
            taken = sample(report, "records_per_second", counts[name])
            taken.figure = report["seconds"] * 1e6 / counts[name]
            return taken

        return bench.contender(key, peer, measure, prepare)

    counts = {}
    setting = (f"about {records:,} records of 256 B, in batches of ten, after a restart, at rest and with nothing in the "
               "page cache; alone in its partition, and among 1,000 namespaces of as many")
    return Scenario(key, "replay of a namespace that is a thousandth of its partition, cold", "µs a record", setting,
                    [contender("TLog, alone", "limit", 1), contender("TLog, a thousandth", "tlog", THOUSAND)],
                    less_is_better=True, finish=lambda: bench.drop(key))


def next_offset(server):
    return json.loads(answers(server.port, "GET", "/v1/namespaces/bench-0")[1])["next_offset"]
