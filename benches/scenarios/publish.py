"""Durable publishes: one by one, in batches, over many streams; beside an empty HTTP handler and a bare sync."""

from comparison import Sample, Scenario, load, run, sample
from peers import tlog
from peers.tlog import EmptyHandler

RECORD = 256


def scenarios(bench, peers):
    for connections in bench.sizes.connections:
        yield singles(bench, peers, connections)
    yield batches(bench, peers)
    for streams in bench.sizes.streams:
        yield spread(bench, peers, streams)


def singles(bench, peers, connections):
    key = f"publish-{connections}"

    def measure(peer, data):
        with bench.fresh(peer, data) as server:
            report = load(peer, server, "publish", "--connections", connections, *bench.timed())
        return sample(report, "records_per_second", report["all_records"])

    def floor(peer, data):
        """What one publisher that waits for each ack can't do without: the sync and the round trip."""
        data.mkdir(parents=True, exist_ok=True)
        sync = run(tlog.TLOG, "bench", "--limits", data, "--json")["fdatasync"][0]["p50_ms"]
        trip = measure(peer, data / "server").p50
        return Sample(1e3 / (sync + trip), p50=sync + trip)

    limit = bench.contender(key, EmptyHandler(), floor if connections == 1 else measure)
    if connections == 1:
        limit.name = "fdatasync and empty round trip"
    setting = f"{RECORD} B a record, one a request, {connections} connection{'s' * (connections > 1)}, 1 in flight on each"
    return Scenario(key, f"records published one by one, {connections} in flight", "records/s", setting,
                    [limit, *(bench.contender(key, peer, measure) for peer in peers.durable)],
                    acks=True, finish=lambda: bench.drop(key))


SHAPES = {"redis": (50, 160, 1), "nats": (16, 500, 1)}
"""Connections, requests in flight on each, records in a request, where a protocol has no batches: as many records in
flight as the others have, over connections that serve it."""


def batches(bench, peers):
    key = "publish-batches"

    def measure(peer, data):
        connections, in_flight, batch = SHAPES.get(peer.protocol, (8, 1, 1000))
        with bench.fresh(peer, data) as server:
            report = load(peer, server, "publish", "--connections", connections, "--in-flight", in_flight,
                          "--batch", batch, *bench.timed())
        return sample(report, "records_per_second", report["all_records"])

    def disk(_, data):
        data.mkdir(parents=True, exist_ok=True)
        sync = run(tlog.TLOG, "bench", "--limits", data, "--json")["fdatasync"][2]
        return Sample(sync["megabytes_per_second"] * 1e6 / RECORD)

    limit = bench.contender(key, EmptyHandler(), disk)
    limit.name = "writes of 8 MiB, fdatasync"
    setting = (f"{RECORD} B a record, 1,000 a request, 8 connections, 1 in flight on each; Redis and NATS have no "
               "batches: 50 connections with 160 in flight, 16 with 500, so that all have 8,000 records in flight")
    return Scenario(key, "batches of 1,000 records, 8,000 records in flight", "records/s", setting,
                    [limit, *(bench.contender(key, peer, measure) for peer in peers.durable)],
                    acks=True, finish=lambda: bench.drop(key))


def spread(bench, peers, streams):
    key = f"publish-streams-{streams}"

    def prepare(peer, data):
        with peer.start(data) as server:
            load(peer, server, "publish", "--streams", streams, "--count", 1)

    def measure(peer, data):
        with peer.start(data) as server:
            # Once to each, so that it is not caches right behind a start that are measured.
            load(peer, server, "publish", "--streams", streams, "--made", "--count", streams)
            report = load(peer, server, "publish", "--streams", streams, "--made", *bench.timed())
        return sample(report, "records_per_second", report["all_records"])

    setting = (f"{RECORD} B a record, one a request, 64 connections, 1 in flight on each, streams in an order by chance; all "
               "exist, and have been published to once since the server's start")
    many = "s" * (streams > 1)
    return Scenario(key, f"records published one by one over {streams:,} stream{many}", "records/s", setting,
                    [bench.contender(key, peer, measure, prepare) for peer in peers.durable],
                    acks=True, finish=lambda: bench.drop(key))
