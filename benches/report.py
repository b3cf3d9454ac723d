"""The figures as a table on the terminal, and as RESULTS.md. All of it is made from what was measured."""

import os
import platform
import re
from pathlib import Path

HEAD = ["who", "median", "lowest to highest", "to the limit", "TLog to it", "p50 ms", "p99 ms", "ack p50 ms",
        "ack is synced", "server CPU s/M", "client CPU s/M", "peak MB"]


def rows(scenario):
    """A row a contender, in words."""
    limit, ours = scenario.of("limit"), scenario.of("tlog")
    for contender in scenario.contenders:
        if contender.samples:
            low, high = contender.spread()
            yield [
                contender.name,
                f"{number(contender.median())} {scenario.unit}",
                f"{number(low)} to {number(high)}",
                ratio(contender, limit),
                ratio(ours, contender) if contender.kind == "peer" else "",
                number(contender.median("p50")),
                number(contender.median("p99")),
                number(contender.median("ack")),
                contender.peer.synced if scenario.acks else "",
                number(contender.cpu_per_million("server_cpu")),
                number(contender.cpu_per_million("client_cpu")),
                number(contender.median("peak") / 1e6) if contender.median("peak") else "",
            ]
        else:
            yield [contender.name, "failed", *[""] * (len(HEAD) - 2)]


def failures(scenario):
    """Why a contender is out, in its program's words."""
    return [f"{contender.name} failed: {contender.failure}" for contender in scenario.contenders if contender.failure]


def ratio(one, other):
    if one is None or other is None or one is other or not other.median():
        return ""
    return f"{one.median() / other.median():.2f}"


def number(value):
    """Three digits, thousands apart."""
    if value is None:
        return ""
    if abs(value) >= 1_000:
        digits = len(str(int(abs(value)))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def table(scenarios):
    """For a terminal: all scenarios, one below the other."""
    parts = []
    for scenario in scenarios:
        lines = list(rows(scenario))
        widths = [max(len(line[at]) for line in [HEAD, *lines]) for at in range(len(HEAD))]
        kept = [at for at in range(len(HEAD)) if any(line[at] for line in lines)]
        parts.append(f"\n{heading(scenario)}\n  ({scenario.setting})")
        for line in [HEAD, *lines]:
            parts.append("  " + "  ".join(line[at].ljust(widths[at]) for at in kept).rstrip())
        parts += [f"  {failure}" for failure in failures(scenario)]
    return "\n".join(parts)


def heading(scenario):
    title = scenario.title[0].upper() + scenario.title[1:]
    return f"{title}, {scenario.unit}{' (less is better)' if scenario.less_is_better else ''}"


def markdown(scenarios, about):
    parts = [
        "# Results",
        "",
        f"Written by `{about['command']}` on {about['date']}; nothing in this file is by hand. Read [README.md](README.md) "
        "for how it was made.",
        "",
        f"- Machine: {about['machine']}",
        f"- Rounds: {about['rounds']}, interleaved; each measurement {about['seconds']:g} s after {about['warmup']:g} s of "
        "warm-up. The median counts; beside it the lowest and the highest.",
        "- *To the limit* is the figure divided by the limit's, *TLog to it* is TLog's divided by this one's.",
        "- *Ack is synced*: whether each ack waited for an fsync, as strace saw it with one publisher.",
        "- CPU is seconds of processor time for a million records (or deliveries, or reads). Peak is the most memory that "
        "the server had, with what it has mapped of files.",
        "",
        "| contender | version | to know |",
        "|---|---|---|",
        *(f"| {name} | {version} | {remark} |" for name, version, remark in about["contenders"]),
        *([f"", f"Not installed, so not compared: {', '.join(about['missing'])}."] if about["missing"] else []),
        "",
    ]
    for name, title in about["charts"]:
        parts += [f"![{title}](charts/{name}.svg)", ""]
    return "\n".join([*parts, *map(section, scenarios)])


def section(scenario):
    lines = list(rows(scenario))
    kept = [at for at in range(len(HEAD)) if any(line[at] for line in lines)]
    setting = scenario.setting[0].upper() + scenario.setting[1:]
    parts = [f"## {heading(scenario)}", "", f"{setting}. `{scenario.key}`", ""]
    parts.append("|" + "|".join(f" {HEAD[at]} " for at in kept) + "|")
    parts.append("|" + "|".join("---" if HEAD[at] in ("who", "ack is synced") else "---:" for at in kept) + "|")
    for line in lines:
        ours = line[0].startswith("TLog")
        cells = [f"**{line[at]}**" if ours and at < 2 else line[at] for at in kept]
        parts.append("|" + "|".join(f" {cell} " for cell in cells) + "|")
    parts += ["", *(f"{failure}\n" for failure in failures(scenario))]
    return "\n".join(parts)


def added(text, scenarios, about):
    """RESULTS.md with these scenarios in the place of what it has of them, or behind all others; each says of which run."""
    parts = re.split("^(?=## )", text, flags=re.MULTILINE)
    for scenario in scenarios:
        head, _, rest = section(scenario).partition(f"`{scenario.key}`\n")
        run = f"A run of its own on {about['date']}, of {about['rounds']} rounds"
        missing = f", without {', '.join(about['missing'])}" if about["missing"] else ""
        at = next((at for at, part in enumerate(parts) if f" `{scenario.key}`\n" in part), len(parts))
        parts[at:at + 1] = [f"{head}`{scenario.key}`\n\n{run}{missing}.\n{rest}"]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def machine(folder):
    """Processors, memory, disk, kernel."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1)) / 1e6
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    under = [mount for mount in mounts if Path(folder).resolve().is_relative_to(mount[0])]
    kind = max(under, key=lambda mount: len(mount[0]), default=("", "?"))[1]
    return (f"{os.cpu_count()} cores ({cpu.group(1) if cpu else platform.machine()}), {memory:.0f} GB of memory, "
            f"{kind}, Linux {platform.release()}; generator and server share it")
