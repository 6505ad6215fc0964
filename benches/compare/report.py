"""The tables, and the same as JSON."""

import statistics

NAMES = ("tollgate", "haproxy")


def median(rounds, key):
    return statistics.median(one[key] for one in rounds)


def ratio(values):
    """Tollgate's value over HAProxy's, when there are both."""
    ours, theirs = (values.get(name) for name in NAMES)
    return ours / theirs if ours is not None and theirs else None


def load_row(scenario, rounds, memory):
    """The medians of one scenario's rounds, with the ratios; `rounds` is a list of {proxy: measurement}."""
    per_proxy = {}
    for name in NAMES:
        own = [one[name] for one in rounds if name in one]
        if own:
            per_proxy[name] = {key: median(own, key) for key in own[0]} | {"memory_mib": memory[name]}
    pairs = round_ratios(rounds, "cpu_us")
    ratios = {
        key: ratio({name: values[key] for name, values in per_proxy.items()})
        for key in ("cpu_us", "per_second", "memory_mib")
    }
    return {
        "scenario": scenario.key, "title": scenario.title, "goal": scenario.goal, **per_proxy, "ratio": ratios,
        "ratio_lowest": min(pairs, default=None), "ratio_highest": max(pairs, default=None), "rounds": rounds,
        "latency": latency_rows(scenario, rounds, per_proxy) if scenario.rate else [],
    }


def round_ratios(rounds, key):
    return [one[NAMES[0]][key] / one[NAMES[1]][key] for one in rounds if all(name in one for name in NAMES)]


def latency_rows(scenario, rounds, per_proxy):
    """Medians over the rounds of the latencies of requests sent on a schedule, with the ratios."""
    rows = []
    of = (("p50_us", "median", None), ("p99_us", "p99", scenario.p99_goal), ("late_p99_us", "sent late, p99", None))
    for key, title, goal in of:
        values = {name: of_proxy[key] for name, of_proxy in per_proxy.items()}
        pairs = round_ratios(rounds, key)
        rows.append({
            "title": f"open loop at {scenario.rate:,}/s: {title}", "goal": goal, **values, "ratio": ratio(values),
            "ratio_lowest": min(pairs, default=None), "ratio_highest": max(pairs, default=None),
        })
    return rows


def load_table(rows):
    lines = [(
        "", "CPU us per request", "", "ratio", "range", "goal", "", "requests/s", "", "ratio",
        "core in use", "", "memory MiB", "", "ratio",
    ), ("", *NAMES, "", "", "", "", *NAMES, "", *NAMES, *NAMES, "")]
    for row in rows:
        def pair(key, form):
            return tuple(form.format(row[name][key]) if name in row else "-" for name in NAMES)

        low, high, goal, of = row["ratio_lowest"], row["ratio_highest"], row["goal"], row["ratio"]
        lines.append((
            row["title"], *pair("cpu_us", "{:.1f}"), number(of["cpu_us"], ".2f"),
            f"{low:.2f}-{high:.2f}" if low else "-", *verdict(goal, of["cpu_us"], ".2f"),
            *pair("per_second", "{:,.0f}"), number(of["per_second"], ".2f"), *pair("busy", "{:.0%}"),
            *pair("memory_mib", "{:.1f}"), number(of["memory_mib"], ".2f"),
        ))
    return table(lines)


def latency_table(rows):
    lines = [("latency from when it was due", "us", "", "ratio", "range", "goal", ""), ("", *NAMES, "", "", "", "")]
    for row in (row for of_scenario in rows for row in of_scenario["latency"]):
        low, high = row["ratio_lowest"], row["ratio_highest"]
        lines.append((
            row["title"], *(number(row.get(name), ",.0f") for name in NAMES), number(row["ratio"], ".2f"),
            f"{low:.2f}-{high:.2f}" if low else "-", *verdict(row["goal"], row["ratio"], ".2f"),
        ))
    return table(lines)


def value_table(title, unit, rows):
    """Rows of {"title", "goal", "tollgate", "haproxy"}; the goal is for Tollgate's value."""
    lines = [(title, f"{unit}", "", "ratio", "goal", ""), ("", *NAMES, "", "", "")]
    for row in rows:
        values = [number(row.get(name), row.get("form", ".1f")) for name in NAMES]
        met = verdict(row["goal"], row.get(NAMES[0]), ".1f")
        lines.append((row["title"], *values, number(ratio(row), ".2f"), *met))
    return table(lines)


def verdict(goal, value, form):
    """The goal, and whether it is met by the value as printed."""
    if goal is None:
        return "", ""
    return f"<= {goal:{form}}", "" if value is None else "met" if float(number(value, form)) <= goal else "MISSED"


def number(value, form):
    return "-" if value is None else f"{value:{form}}"


def table(lines):
    """Columns as wide as their cells, the first to the left, the others to the right.

    Two lines are headings; one in the first line reaches over the empty ones after it.
    """
    columns = range(len(lines[0]))
    alone = [column + 1 == len(lines[0]) or lines[0][column + 1] != "" for column in columns]
    widths = [max(len(line[column]) for line in (lines if alone[column] else lines[1:])) for column in columns]
    starts = [sum(widths[:column]) + 2 * column for column in columns]
    rows = []
    for index, line in enumerate(lines):
        text = line[0]
        for column in columns[1:]:
            cell = line[column]
            if index == 0 and not cell:
                continue
            text = text.ljust(starts[column]) + (cell.rjust(widths[column]) if index or alone[column] else cell)
        rows.append(text.rstrip())
    rows.insert(2, "-" * (starts[-1] + widths[-1]))
    return "\n".join(rows)
