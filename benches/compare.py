#!/usr/bin/env python3
"""TLog beside what this machine can do, and beside its peers, in one run.

    compare.py [--full | --tiny] [--only PATTERN] [--list] [--write [FOLDER]]

Needs Python, and the programs that `make bench` builds. Peers that are installed are measured, others are skipped by
name. Figures are printed as one table; --write also writes RESULTS.md and the charts.
"""

import argparse
import datetime
import re
import resource
import signal
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import chart
import peers
import report
import scenarios
import synced
from comparison import Bench, say
from peers import tlog
from peers.durable_streams import DurableStreams
from peers.nats import Nats, NatsCore
from peers.nchan import Nchan
from peers.redis import Redis
from peers.s2 import S2
from peers.tlog import Tlog
from process import Failed

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "target"

CHARTS = {
    "publish": ("Durable publishes", r"publish-(1|64|256|batches)$"),
    "read": ("Replay, fan-out and groups", r"(replay|group|fanout-1x1000|latency-1|restart-1)$"),
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int = 3
    seconds: float = 2
    warmup: float = 1
    connections: tuple = (1, 64)
    streams: tuple = (1, 1_000)
    followers: tuple = (1, 1_000)
    replay_records: int = 1_000_000
    thousandth_records: int = 1_000
    group_records: int = 400_000
    store_records: int = 500_000
    restart_gigabytes: tuple = (1,)
    idle_followers: int = 5_000
    idle_streams: int = 10_000
    idle_groups: int = 1_000


SHORT = Sizes()
FULL = Sizes(
    rounds=5, seconds=5, warmup=2, connections=(1, 16, 64, 256), streams=(1, 1_000, 100_000),
    followers=(1, 100, 1_000, 10_000), replay_records=4_000_000, thousandth_records=10_000, group_records=1_000_000,
    store_records=2_000_000, restart_gigabytes=(1, 10), idle_followers=15_000, idle_streams=100_000, idle_groups=10_000,
)
TINY = Sizes(
    rounds=1, seconds=0.3, warmup=0.1, connections=(1, 64), streams=(1, 100), followers=(1, 100), replay_records=50_000,
    thousandth_records=50, group_records=20_000, store_records=20_000, restart_gigabytes=(0.02,), idle_followers=200,
    idle_streams=500, idle_groups=100,
)


def main():
    # So that what was started is stopped, and the data removed, also where this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare.py: stopped"))
    options = arguments()
    tlog.TLOG, tlog.LOAD = options.programs / "tlog", options.programs / "load"
    peers.FOLDERS.append(options.peers)
    # A connection is an open file, here and in the servers.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sizes = FULL if options.full else TINY if options.tiny else SHORT
    sizes = replace(sizes, rounds=options.rounds or sizes.rounds, seconds=options.seconds or sizes.seconds)
    field, missing = contenders()
    for name in missing:
        say(f"{name} is not installed: skipped")
    # Beside the programs: on a disk, and not in memory, where a sync costs nothing.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.programs) as folder:
        bench = Bench(sizes, Path(folder))
        every = [one for family in scenarios.FAMILIES for one in family.scenarios(bench, field)]
        chosen = [one for one in every if re.search(options.only, one.key)]
        if options.list:
            return print("\n".join(f"{one.key:28} {one.title}" for one in chosen))
        watch(bench, field)
        for scenario in chosen:
            scenario.run(sizes.rounds)
    print(report.table(chosen))
    facts = about(options, sizes, field, missing)
    if options.add:
        # A chart shows one run: one of which not all was run stays as it is.
        draw(options.write or HERE, chosen, every)
        results = (options.write or HERE) / "RESULTS.md"
        results.write_text(report.added(results.read_text(), chosen, facts))
    elif options.write:
        facts["charts"] = draw(options.write, chosen, chosen)
        (options.write / "RESULTS.md").write_text(report.markdown(chosen, facts))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all sizes, more rounds, longer: an hour and more")
    parser.add_argument("--tiny", action="store_true", help="to see that all scenarios work; the figures mean nothing")
    parser.add_argument("--only", default="", metavar="PATTERN", help="scenarios whose key it is found in")
    parser.add_argument("--list", action="store_true", help="the scenarios' keys")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--write", type=Path, nargs="?", const=HERE, help="write RESULTS.md and charts/ (there)")
    parser.add_argument("--add", action="store_true", help="write no more than these scenarios into the RESULTS.md there is")
    parser.add_argument("--programs", type=Path, default=TARGET / "release", help="where tlog and load are")
    parser.add_argument("--peers", type=Path, default=TARGET / "peers" / "bin", help="where peers are, beside PATH")
    return parser.parse_args()


def contenders():
    """Those that are there, by what they can do, and the names of those that are not."""
    ours, streams, always, jetstream = Tlog(), DurableStreams(), Redis("always"), Nats()
    durable = [ours, streams, always, Redis("everysec"), jetstream, S2()]
    live = [Tlog("--max-connections", 16_000), Nchan(), NatsCore(), streams]
    groups = [ours, always, jetstream]
    there = lambda every: [peer for peer in every if peer.path]
    everysec = lambda peer: peer.name.endswith("everysec")
    field = SimpleNamespace(
        durable=there(durable), durable_once=[peer for peer in there(durable) if not everysec(peer)], live=there(live),
        groups=there(groups), all=list({peer.name: peer for peer in there(durable + live)}.values()),
    )
    return field, sorted({peer.name for peer in durable + live if not peer.path})


def watch(bench, field):
    """Sees for each contender whether its acks wait for a sync."""
    for peer in field.durable:
        say(f"{peer.name}: watching its syncs")
        try:
            peer.synced = synced.seen(peer, bench.data("synced", peer))
        except Failed as failure:
            say(f"    not seen: {failure}")
    bench.drop("synced")


def about(options, sizes, field, missing):
    mode = " --full" if options.full else " --tiny" if options.tiny else ""
    return {
        "command": "make bench-full" if options.full else f"benches/compare.py{mode} --write",
        "date": datetime.date.today().isoformat(),
        "machine": report.machine(options.programs),
        "rounds": sizes.rounds, "seconds": sizes.seconds, "warmup": sizes.warmup,
        "contenders": [(peer.name, peer.version(), peer.remark) for peer in field.all],
        "missing": missing,
        "charts": [],
    }


def draw(folder, chosen, every):
    """Draws the charts of which all that is in `every` was run, and says which."""
    charts, drawn = folder / "charts", []
    charts.mkdir(parents=True, exist_ok=True)
    for name, (title, pattern) in CHARTS.items():
        due = [one for one in every if re.match(pattern, one.key)]
        shown = [one for one in due if any(c.samples for c in one.contenders)]
        if shown and all(one in chosen for one in due):
            (charts / f"{name}.svg").write_text(chart.chart(title, shown))
            drawn.append((name, title))
    return drawn


if __name__ == "__main__":
    main()
