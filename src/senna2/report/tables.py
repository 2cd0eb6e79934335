"""The tables of the page as HTML, made from results.json alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from senna2.evaluate.metrics import BETTER, SUITES

LABEL = {
    "fde_m": "FDE, m", "ade_m": "ADE, m", "cr": "collision", "dcr": "dynamic collision, %",
    "scr": "static collision, %",
    "af_cr": "at-fault collision", "safety_1": "Safety@1", "safety_2": "Safety@2", "safety_ahead_1": "Safety ahead@1",
    "safety_ahead_2": "Safety ahead@2", "f1_strict": "avg, UNKNOWN a miss", "floor_majority": "floor: majority class",
    "floor_shuffled": "floor: shuffled decisions", "left_without_lane_change": "left, no lane changes",
    "right_without_lane_change": "right, no lane changes", "ratio_accelerate": "speed ratio, ACCELERATE",
    "ratio_keep": "speed ratio, KEEP", "ratio_decelerate": "speed ratio, DECELERATE",
    "auroc_accelerate_keep": "AUROC accelerate > keep", "auroc_keep_decelerate": "AUROC keep > decelerate",
    "auroc_accelerate_decelerate": "AUROC accelerate > decelerate",
    "consistency_avg": "consistency avg in closed loop", "lateral_undecided": "lateral, fault undecided",
}  # fmt: skip
HEADLINE = (
    "consistency.avg", "open_loop.fde_m", "closed_loop.af_cr", "closed_loop.cr", "closed_loop.safety_1",
    "closed_loop.progress_ratio", "closed_loop.parked", "control.auroc_accelerate_decelerate",
)  # fmt: skip
ABREAST = 8  # policies that fit beside each other on the page


def label(metric: str) -> str:
    """The printed name of "suite.metric"."""
    suite, name = metric.split(".", 1)
    if metric == "open_loop.cr":
        return "collision, %"
    if metric == "consistency.avg":
        return "consistency avg" if suite else name
    return LABEL.get(name, name.replace("_", " "))


def _arrow(metric: str) -> str:
    return {1: ' <span class="arrow">↑</span>', -1: ' <span class="arrow">↓</span>'}.get(BETTER.get(metric, 0), "")


def number(value: float | None) -> str:
    """Three significant places, never an exponent; an en dash for what does not exist."""
    if value is None:
        return "–"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def interval(ci: Sequence[float | None] | None) -> str:
    """[low, high]; nothing for what has none."""
    return "" if ci is None else f"[{number(ci[0])}, {number(ci[1])}]"


class _Notes:
    """Foot notes of one table: equal texts share a number."""

    def __init__(self, table: str) -> None:
        self._table, self._texts = table, dict[str, int]()

    def mark(self, text: str | None) -> str:
        if not text:
            return ""
        i = self._texts.setdefault(text, len(self._texts) + 1)
        return f'<sup><a href="#{self._table}-note-{i}" title="{escape(text)}">{i}</a></sup>'

    def html(self) -> str:
        rows = "".join(f'<li id="{self._table}-note-{i}">{escape(t)}</li>' for t, i in self._texts.items())
        return f'<ol class="notes">{rows}</ol>' if rows else ""


def _cell(value: Mapping[str, Any] | None, notes: _Notes, best: bool) -> str:
    if value is None:
        return '<td class="none"></td>'
    mark = notes.mark(value.get("note"))
    if value["value"] is None:
        return f'<td class="none">–{mark}</td>'
    seeds = [v for v in value["per_seed"] if v is not None]
    hint = f"n = {value['n']}"
    inner = f"<b>{number(value['value'])}</b>{mark}<small>{interval(value['ci95'])}</small>"
    if len(seeds) > 1:
        inner += f'<small class="seeds">{" · ".join(number(v) for v in seeds)}</small>'
    return f'<td{" class=best" if best else ""} title="{escape(hint)}">{inner}</td>'


def clips_driven(results: Mapping[str, Any], policies: Iterable[str]) -> dict[str, int]:
    """How many clips each of `policies` drove, of those that drove any."""
    known = ((p, results["policies"].get(p, {}).get("closed_loop", {}).get("af_cr") or {}) for p in policies)
    return {p: rate["n"] for p, rate in known if rate.get("n")}


def fewer_clips(results: Mapping[str, Any], policies: Iterable[str] | None = None) -> dict[str, int]:
    """How many clips those of `policies` (none: all) drove that drove fewer than others of them did: their closed loop
    is not to be compared."""
    driven = clips_driven(results, results["policies"] if policies is None else policies)
    return {p: n for p, n in driven.items() if n < max(driven.values())}


def _best(metric: str, values: Mapping[str, Mapping[str, Any] | None], fewer: Collection[str]) -> set[str]:
    """The policies that print the best value; none where all are equal or better has no meaning. In closed loop those
    with `fewer` clips take no part."""
    sense = BETTER.get(metric, 0)
    left_out = fewer if metric.startswith("closed_loop.") else ()
    known = {p: v["value"] for p, v in values.items() if v is not None and v["value"] is not None and p not in left_out}
    if sense == 0 or len(known) < 2 or len(set(known.values())) == 1:
        return set()
    top = max(known.values(), key=lambda v: sense * v)
    return {p for p, v in known.items() if v == top}


def _table(policies: Sequence[str], rows: Mapping[str, str], cell: Callable[[str, str], str]) -> str:
    """`rows`: a key and the HTML that is printed for it; `cell(policy, key)`: HTML. A few policies stand side by side,
    many one below the other."""
    names = {p: escape(p) for p in policies}
    across, down = (rows, names) if len(policies) > ABREAST else (names, rows)
    body = ""
    for key, name in down.items():
        cells = "".join(cell(key, other) if down is names else cell(other, key) for other in across)
        body += f"<tr><td>{name}</td>{cells}</tr>"
    columns = "".join(f"<th>{h}</th>" for h in across.values())
    return f'<div class="scroll"><table><thead><tr><th></th>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def _grid(results: Mapping[str, Any], metrics: Sequence[str], policies: Sequence[str], anchor: str) -> str:
    found = {}
    for metric in metrics:
        suite, name = metric.split(".", 1)
        values = {p: results["policies"][p].get(suite, {}).get(name) for p in policies}
        if any(v is not None for v in values.values()):
            found[metric] = values
    if not found:
        return ""
    fewer = fewer_clips(results)
    best = {m: _best(m, values, fewer) for m, values in found.items()}
    notes = _Notes(anchor)
    table = _table(
        policies,
        {m: f"{escape(label(m))}{_arrow(m)}" for m in found},
        lambda policy, m: _cell(found[m][policy], notes, policy in best[m]),
    )
    return table + notes.html()


def headline(results: Mapping[str, Any]) -> str:
    """One number a suite and what must be read beside it."""
    table = _grid(results, HEADLINE, list(results["policies"]), "brief")
    legend = (
        '<p class="caption">Value and 95 % interval; ↑ higher is better, ↓ lower is better; the best value in green (a '
        "difference is a result only where the comparison below says so; who drove fewer clips than others takes no "
        "part). "
        "Below it each seed's own value; hover for n.</p>"
    )
    return table + legend if table else ""


def suite_table(results: Mapping[str, Any], suite: str) -> str:
    """Empty if no policy has the suite. One without a single value is left out, unless none has."""
    having = {p: suites[suite].values() for p, suites in results["policies"].items() if suites.get(suite)}
    policies = [p for p, values in having.items() if any(v["value"] is not None for v in values)] or list(having)
    return _grid(results, [f"{suite}.{name}" for name in SUITES[suite]], policies, suite) if policies else ""


def families_table(results: Mapping[str, Any]) -> str:
    """At-fault and any collisions, family by family."""
    clips = results["clips"]
    policies = [p for p in results["policies"] if any(c["policy"] == p for c in clips)]
    families = sorted({c["family"] for c in clips})
    if not policies or len(families) < 2:
        return ""

    def cell(policy: str, family: str) -> str:
        mine = [c for c in clips if c["policy"] == policy and c["family"] == family]
        hit, fault = sum(c["collided"] for c in mine), sum(c["at_fault"] for c in mine)
        return "<td></td>" if not mine else f"<td><b>{fault}</b> / {hit} <small>of {len(mine)} drives</small></td>"

    table = _table(policies, {f: escape(f.replace("_", " ")) for f in families}, cell)
    return '<h3>By family</h3><p class="caption">Drives with an at-fault collision / with any.</p>' + table


def verdict(row: Mapping[str, Any]) -> tuple[str, str]:
    """(words, class) of a comparison: who is ahead, or a tie; and whether that rests on one training seed, or the
    training seeds disagree."""
    ci = row["ci95"]
    if ci is None or None in ci:
        return "no interval", "tie"
    if ci[0] <= 0 <= ci[1]:
        return "tie", "tie"
    sense = BETTER.get(row["metric"], 0) * (1 if row["difference"] > 0 else -1)
    if sense == 0:
        return "differs", ""
    seeds = [d for d in row["per_seed"] if d is not None]
    if any(d * row["difference"] < 0 for d in seeds):
        return "training seeds differ", "tie"
    who, kind = ("a", "ahead") if sense > 0 else ("b", "behind")
    return f"{row[who]} better{', one training seed' if len(seeds) == 1 else ''}", kind


def comparisons_table(results: Mapping[str, Any]) -> str:
    """a − b with interval, relative difference and verdict; one table a pair."""
    out = []
    pairs = dict.fromkeys((c["a"], c["b"]) for c in results["comparisons"])
    for a, b in pairs:
        rows = []
        for c in results["comparisons"]:
            if (c["a"], c["b"]) != (a, b):
                continue
            words, kind = verdict(c)
            relative = "–" if c["relative"] is None else f"{100 * c['relative']:+.0f} %"
            difference = "–" if c["difference"] is None else f"{c['difference']:+.3f}"
            suite = c["metric"].split(".", 1)[0].replace("_", " ")
            rows.append(
                f'<tr><td>{escape(label(c["metric"]))}{_arrow(c["metric"])}</td><td class="left soft">{suite}</td>'
                f"<td><b>{difference}</b><small>{interval(c['ci95'])}</small></td><td>{relative}</td>"
                f'<td>{c["paired_over"]}</td><td class="{kind}">{escape(words)}</td></tr>'
            )
        out.append(
            f'<h3>{escape(a)} − {escape(b)}</h3><div class="scroll"><table><thead><tr><th></th>'
            f'<th class="left">suite</th>'
            f"<th>difference</th><th>relative</th><th>clips</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
    return "".join(out)


def clips_table(results: Mapping[str, Any]) -> str:
    """Every drive and what became of it."""
    rows = []
    for c in results["clips"]:
        ttc = "none" if c["min_ttc_s"] is None else f"{c['min_ttc_s']:.1f}"
        cells = f"<td class=left>{escape(c['clip'])}</td><td class=left>{escape(c['family'])}</td><td>{c['seed']}</td>"
        cells += f"<td class=left>{_tags(c)}</td><td>{ttc}</td><td>{number(c['progress_m'])}</td>"
        rows.append(f"<tr><td>{escape(c['policy'])}</td>{cells}</tr>")
    head = (
        "<th>policy</th><th class=left>clip</th><th class=left>family</th><th>seed</th><th class=left>outcome</th>"
        "<th>min TTC, s</th><th>progress, m</th>"
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _tags(clip: Mapping[str, Any]) -> str:
    found = [
        ("at fault", "bad", clip["at_fault"]),
        ("struck from behind", "warn", clip["rear_ended"]),
        ("collided", "warn", clip["collided"] and not clip["at_fault"] and not clip["rear_ended"]),
        ("off road", "bad", clip["off_road"]),
        ("parked", "warn", clip["parked"]),
        ("straddled", "warn", clip["straddled"]),
        ("finished", "good", clip["finished"]),
    ]
    return " ".join(f'<span class="tag {kind}">{words}</span>' for words, kind, yes in found if yes)
