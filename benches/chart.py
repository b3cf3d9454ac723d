"""Bar charts as SVG, in plain text: one panel a scenario, one bar a contender, all from zero."""

from html import escape

from report import number

WIDTH, BAR, GAP, LEFT, RIGHT = 880, 16, 6, 250, 150
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
INK, SOFT, RULE = "#1f2933", "#616e7c", "#d9dee4"
COLORS = {"tlog": "#0b6e4f", "peer": "#9fb3c8", "limit": "none"}


def chart(title, scenarios):
    """The text of the picture."""
    parts, y = [], 62
    for scenario in scenarios:
        panel, y = draw(scenario, y)
        parts += panel
    return "\n".join([
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {y}' width='{WIDTH}' height='{y}' "
        f"role='img' {FONT}>",
        f"<title>{escape(title)}</title>",
        f"<rect width='{WIDTH}' height='{y}' fill='#ffffff'/>",
        text(20, 30, title, 17, INK, weight=600),
        *key(20, 46),
        *parts,
        "</svg>",
        "",
    ])


def key(x, y):
    parts = []
    for kind, name in (("tlog", "TLog"), ("peer", "others"), ("limit", "the machine's limit")):
        parts += [bar(x, y - 4, 10, 10, kind), text(x + 15, y + 4, name, 11, SOFT)]
        x += 30 + 7 * len(name)
    return parts


def draw(scenario, y):
    """A panel from `y` on, and where it ends."""
    contenders = [contender for contender in scenario.contenders if contender.samples]
    most = max(contender.spread()[1] for contender in contenders) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    less = "; less is better" if scenario.less_is_better else ""
    title = scenario.title[0].upper() + scenario.title[1:]
    y += 26
    unit = text(WIDTH - 20, y, f"{scenario.unit}{less}", 11, SOFT, anchor="end")
    parts = [text(20, y, title, 13, INK, weight=600), unit]
    y += 10
    top = y
    for contender in contenders:
        median, (low, high) = contender.median(), contender.spread()
        length = max(1, median * scale)
        middle = y + BAR / 2
        weight = 600 if contender.kind == "tlog" else 400
        parts += [
            text(LEFT - 8, middle + 4, contender.name, 12, INK, anchor="end", weight=weight),
            bar(LEFT, y, length, BAR, contender.kind),
            line(LEFT + low * scale, middle, f"H{LEFT + high * scale:.1f}", INK),
            text(LEFT + max(length, high * scale) + 7, middle + 4, label(scenario, contender), 12, INK, weight=weight),
        ]
        y += BAR + GAP
    parts.append(line(LEFT, top - 2, f"V{y - GAP + 2}", RULE))
    return parts, y + 8


def label(scenario, contender):
    synced = {"no": ", not synced", "yes": ", synced"}.get(contender.peer.synced, "") if scenario.acks else ""
    return number(contender.median()) + synced


def bar(x, y, width, height, kind):
    stroke = f" stroke='{SOFT}' stroke-dasharray='3 2'" if kind == "limit" else ""
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height}' rx='2' fill='{COLORS[kind]}'{stroke}/>"


def line(x, y, to, color):
    return f"<path d='M{x:.1f} {y:.1f}{to}' stroke='{color}'/>"


def text(x, y, words, size, color, anchor="start", weight=400):
    return (f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' font-weight='{weight}' fill='{color}' "
            f"text-anchor='{anchor}'>{escape(words)}</text>")
