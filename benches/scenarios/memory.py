"""Memory for what is there and does nothing: followers, namespaces, groups. What a server takes more with them than
without, divided by their number. Files that are mapped don't count."""

import time

from comparison import Holding, Sample, Scenario, load, run
from peers import tlog
from peers.tlog import Tlog

QUIET = 1.0
"""Seconds that a server is given to come to rest."""


def scenarios(bench, peers):
    yield followers(bench, peers)
    yield namespaces(bench, peers, restarted=False)
    yield namespaces(bench, peers, restarted=True)
    yield each(bench, "group", "/v1/namespaces/bench-0/groups/g{}")
    yield each(bench, "subscriber", "/v1/subscribers/s{}", '{"rooms":[{"namespace":"bench-0","key":"k-{}"}]}')


def settled(server):
    time.sleep(QUIET)
    return server.memory_bytes()


def followers(bench, peers):
    key, count = "memory-followers", bench.sizes.idle_followers

    def measure(peer, data):
        with bench.fresh(peer, data) as server:
            before = settled(server)
            with Holding(peer, server, count):
                taken = settled(server) - before
            return Sample(taken / count, peak=server.peak_bytes())

    setting = f"{count:,} connections that follow one stream in which nothing happens; without the kernel's memory for them"
    return Scenario(key, "memory for an idle follower", "bytes each", setting,
                    [bench.contender(key, peer, measure) for peer in peers.live], less_is_better=True,
                    finish=lambda: bench.drop(key))


def namespaces(bench, peers, restarted):
    count = bench.sizes.idle_streams
    key = "memory-namespaces-restarted" if restarted else "memory-namespaces"

    def measure(peer, data):
        with bench.fresh(peer, data) as server:
            before = settled(server)
            # Each is made, and holds a record.
            load(peer, server, "publish", "--streams", count, "--count", 1)
            after = settled(server)
            peak = server.peak_bytes()
            if restarted:
                server.stop()
                with peer.start(data) as again:
                    after, peak = settled(again), again.peak_bytes()
        return Sample((after - before) / count, peak=peak)

    when = "after a restart" if restarted else "right after they were made"
    setting = (f"{count:,} streams with a record of 256 B each, {when}; for TLog that includes its caches, which are "
               "bounded")
    return Scenario(key, f"memory for a stream, {when}", "bytes each", setting,
                    [bench.contender(key, peer, measure) for peer in peers.durable_once], less_is_better=True,
                    finish=lambda: bench.drop(key))


def each(bench, what, path, body=""):
    """Many of one kind, made and not used. A subscriber has a room of its own."""
    key, count = f"memory-{what}s", bench.sizes.idle_groups

    def measure(peer, data):
        with bench.fresh(peer, data) as server:
            load(peer, server, "publish", "--connections", 1, "--count", 1)
            before = settled(server)
            run(tlog.LOAD, "request", "--protocol", "tlog", "--address", server.address, "--connections", 1, "--method",
                "PUT", "--path", path, "--body", body, "--range", count, "--count", count)
            return Sample((settled(server) - before) / count, peak=server.peak_bytes())

    alone = " with a room of its own" if body else ""
    setting = f"{count:,} {what}s of one namespace, {'each' + alone + ', ' if alone else ''}made and not used"
    return Scenario(key, f"memory for an idle {what}{alone}", "bytes each", setting,
                    [bench.contender(key, Tlog(), measure)], less_is_better=True, finish=lambda: bench.drop(key))
