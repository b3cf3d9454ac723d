"""Followers: how many deliveries a second, and how long after a record was due."""

from comparison import Scenario, load, sample
from peers.tlog import BareFanOut
from process import Failed

RATES = {1: 1_000, 100: 500, 1_000: 100, 10_000: 10}
"""Records a second where latency is measured: about 100,000 deliveries at most."""


def scenarios(bench, peers):
    for followers in bench.sizes.followers:
        yield deliveries(bench, peers, 1, followers)
    yield deliveries(bench, peers, 1_000, 10)
    for followers in bench.sizes.followers:
        yield latency(bench, peers, followers)


def contenders(bench, peers, key, measure):
    return [bench.contender(key, peer, measure) for peer in (BareFanOut(), *peers.live)]


def deliveries(bench, peers, streams, followers):
    key = f"fanout-{streams}x{followers}"
    # Where few follow, many records must be on their way to keep a server busy.
    window, publishers = max(64, 4_096 // followers), 64 if followers <= 10 else 16

    def measure(peer, data):
        with bench.fresh(peer, data) as server:
            report = load(peer, server, "follow", "--streams", streams, "--followers", followers, "--window", window,
                          "--publishers", publishers, *bench.timed())
        lost(report)
        return sample(report, "deliveries_per_second", report["all_deliveries"], "delivery_ms")

    over = "" if streams == 1 else f" each of {streams:,} streams"
    setting = (f"256 B a record, {followers:,} followers{over}, {publishers} connections that publish one by one, at most "
               f"{window:,} records on their way; processor time is per million deliveries")
    many = "s" * (followers > 1)
    title = f"fan-out to {followers:,} follower{many}" + (f" of each of {streams:,} streams" if over else "")
    return Scenario(key, title, "deliveries/s", setting, contenders(bench, peers, key, measure),
                    finish=lambda: bench.drop(key))


def latency(bench, peers, followers):
    key, rate = f"latency-{followers}", RATES[followers]

    def measure(peer, data):
        with bench.fresh(peer, data) as server:
            report = load(peer, server, "follow", "--followers", followers, "--rate", rate, "--publishers", 4,
                          *bench.timed())
        lost(report)
        taken = sample(report, "deliveries_per_second", report["all_deliveries"], "delivery_ms")
        taken.figure = taken.p50
        return taken

    setting = (f"256 B a record, {rate:,} records/s at fixed times over 4 connections; the median time from when a record "
               "was due to when a follower had it")
    return Scenario(key, f"publish to delivery, {followers:,} follower{'s' * (followers > 1)}", "ms", setting,
                    contenders(bench, peers, key, measure), less_is_better=True, finish=lambda: bench.drop(key))


def lost(report):
    if report["missing"]:
        raise Failed(f"{report['missing']} of {report['all_records']} records' deliveries never came")
