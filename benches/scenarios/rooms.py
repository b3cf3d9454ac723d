"""Rooms: what it costs a publisher that subscribers of a key are connected."""

from comparison import Holding, Scenario, load, run, sample
from peers import tlog
from peers.tlog import Tlog
from process import Failed

SECONDS, WARMUP = 2, 1
"""At least. Acks come one by one and a fresh folder's next segment is zeroed meanwhile: the median of less is that of one
stall of the disk."""


def scenarios(bench, _):
    key = "room"
    body = '{"rooms":[{"namespace":"bench-0","key":"k-0000000000"}]}'

    def contender(name, kind, subscribers):
        peer = Tlog()
        peer.name, peer.kind = name, kind

        def measure(peer, data):
            with bench.fresh(peer, data) as server:
                load(peer, server, "publish", "--connections", 1, "--count", 1, "--keys", 1)
                if not subscribers:
                    return publish(peer, server)
                run(tlog.LOAD, "request", "--protocol", "tlog", "--address", server.address, "--connections", 1, "--method",
                    "PUT", "--path", "/v1/subscribers/s{}", "--body", body, "--range", subscribers, "--count", subscribers)
                with Holding(peer, server, subscribers, "--path", "/v1/subscribers/s{}/events") as followers:
                    taken = publish(peer, server)
            if followers.bytes < taken.records * subscribers * 256:
                raise Failed("the subscribers were not given all")
            return taken

        return bench.contender(key, peer, measure)

    def publish(peer, server):
        report = load(peer, server, "publish", "--connections", 1, "--keys", 1, "--made",
                      "--seconds", max(SECONDS, bench.sizes.seconds), "--warmup", max(WARMUP, bench.sizes.warmup))
        taken = sample(report, "records_per_second", report["all_records"])
        taken.figure = taken.p50
        return taken

    setting = "256 B a record with a key, one publisher that waits for each ack; two durable subscribers take all"
    yield Scenario(key, "publish to a room of two who are connected", "ms", setting,
                   [contender("TLog, nobody subscribed", "limit", 0), contender("TLog, a room of two", "tlog", 2)],
                   less_is_better=True, finish=lambda: bench.drop(key))
