"""Restart after `kill -9`: from the start of the process to when it serves."""

from comparison import Sample, Scenario, load

from .replay import fill

RECORD, BATCH = 256, 1_000


def scenarios(bench, peers):
    for gigabytes in bench.sizes.restart_gigabytes:
        yield restart(bench, peers, gigabytes)


def restart(bench, peers, gigabytes):
    key = f"restart-{gigabytes:g}"
    records = int(gigabytes * 1e9 / RECORD) // BATCH * BATCH

    def prepare(peer, data):
        with peer.start(data) as server:
            fill(peer, server, records)
            server.kill()

    def measure(peer, data):
        with peer.start(data) as server:
            taken = Sample(server.seconds_to_ready * 1e3, peak=server.peak_bytes())
            # So that each round has something that a clean stop would have put in order.
            load(peer, server, "publish", "--connections", 64, "--count", 20_000, "--made")
            server.kill()
        return taken

    # What holds all records in memory is not asked to hold ten times as many.
    contenders = [peer for peer in peers.durable_once if gigabytes <= 1 or peer.protocol != "redis"]
    setting = (f"{gigabytes:g} GB of records of {RECORD} B in one stream, in batches of {BATCH:,}; killed behind 20,000 "
               "single publishes; the page cache is what it was")
    return Scenario(key, f"restart after kill -9 with {gigabytes:g} GB", "ms", setting,
                    [bench.contender(key, peer, measure, prepare) for peer in contenders], less_is_better=True,
                    finish=lambda: bench.drop(key))
