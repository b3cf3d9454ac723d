"""Workers that share a stream: each record is leased once and acked."""

import itertools

from comparison import Scenario, load, sample

from .replay import fill

NUMBERS = itertools.count()


def scenarios(bench, peers):
    key, records = "group", bench.sizes.group_records

    def prepare(peer, data):
        with peer.start(data) as server:
            fill(peer, server, records)

    def measure(peer, data):
        with peer.start(data) as server:
            server.rest()
            report = load(peer, server, "work", "--group", f"g{next(NUMBERS)}", "--records", records)
        return sample(report, "records_per_second", records)

    setting = (f"{records:,} records of 256 B, 8 workers, 100 records a lease and an ack; the next lease is under way while "
               "a batch is acked; after a restart, at rest. NATS's acks are not answered; the time ends when its server has "
               "taken them in")
    yield Scenario(key, "a group's records leased and acked", "records/s", setting,
                   [bench.contender(key, peer, measure, prepare) for peer in peers.groups],
                   acks=True, finish=lambda: bench.drop(key))
