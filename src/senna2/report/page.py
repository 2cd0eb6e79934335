"""report.html: what was run, four suites with intervals, comparisons, figures, videos, definitions,
provenance.

One file: style, pictures and videos are inside, nothing is fetched. The page shows what results.json holds.
"""

from __future__ import annotations

import base64
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from senna2.evaluate.results import validate_results
from senna2.files import written_whole
from senna2.report.media import Figure, Video
from senna2.report.tables import clips_table, comparisons_table, families_table, headline, suite_table

SUITE_WORDS = {
    "consistency": (
        "Consistency",
        "F1 between what the VLM decides and what the plan does (f_K), on open-loop samples. `avg` is the mean of the "
        "seven classes; it means little without the floors, the ceiling and the accuracy of the decision itself.",
    ),
    "open_loop": (
        "Open loop",
        "Plan against recording over 3 s. Displacements in m, collision rates in %.",
    ),
    "closed_loop": (
        "Closed loop",
        "Each clip driven from its start; shares of clips. Read at-fault collisions beside progress: standing still is "
        "safe and useless.",
    ),
    "control": (
        "Control",
        "Does the planner do what it is told? Plans of the same frame and noise under forced decisions.",
    ),
}
LONG = 60  # characters, above which a fact takes a line of its own


def write_report(results: dict[str, Any], out_dir: Path | str, *, media: Sequence[Figure | Video] = ()) -> Path:
    """Write `out_dir`/report.html and return its path.

    `results`: the object of results.json (`evaluate.results.assemble`). `media`: figures and videos to embed.
    Raises `InputError` for results that break the schema or a video that is missing.
    """
    html = render_page(validate_results(results), media)
    path = Path(out_dir) / "report.html"
    with written_whole(path) as fresh:
        fresh.write_text(html, encoding="utf-8")
    return path


def render_page(results: Mapping[str, Any], media: Sequence[Figure | Video] = ()) -> str:
    """The page as text."""
    css = importlib.resources.files("senna2.report").joinpath("style.css").read_text(encoding="utf-8")
    recipe = results["recipe"]
    title = f"Senna-2 · {recipe.get('name', 'run')}"
    videos = [m for m in media if isinstance(m, Video)]
    figures = [m for m in media if isinstance(m, Figure)]
    sections = {"overview": _section("overview", "In brief", "", headline(results) + _figures(figures, "overview"))}
    if videos:
        sections["videos"] = _videos(videos)
    for suite, (name, lead) in SUITE_WORDS.items():
        body = suite_table(results, suite)
        if suite == "closed_loop":
            body += families_table(results)
        body += _figures(figures, suite)
        if body:
            sections[suite] = _section(suite, name, lead, body)
    if results["comparisons"]:
        lead = "Paired over the same clips; a difference whose 95 % interval holds 0 is a tie."
        sections["comparisons"] = _section("comparisons", "Comparisons", lead, comparisons_table(results))
    if results["clips"]:
        body = f"<details><summary>{len(results['clips'])} drives</summary>{clips_table(results)}</details>"
        sections["clips"] = _section("clips", "Clip by clip", "", body)
    sections["definitions"] = _definitions(results["definitions"])
    sections["provenance"] = _provenance(results)
    parts = [_head(results, title, list(sections)), *sections.values()]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f'<link rel="icon" href="data:,">\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _section(anchor: str, title: str, lead: str, body: str) -> str:
    intro = f'<p class="soft">{_code(lead)}</p>' if lead else ""
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{intro}{body}</section>'


def _code(text: str) -> str:
    """Escaped, `so` set as code."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces))


def _head(results: Mapping[str, Any], title: str, anchors: Sequence[str]) -> str:
    recipe, clips = results["recipe"], results["clips"]
    note = recipe.get("note", "")
    banner = f'<div class="banner"><b>Note.</b> {escape(note)}</div>' if note else ""
    minutes = sum(results["timings_s"].values()) / 60
    facts = {
        "recipe": recipe.get("name", "not named"),
        "policies": ", ".join(results["policies"]),
        "seeds": ", ".join(str(s) for s in results["seeds"]),
        "clips driven": f"{len({c['clip'] for c in clips})} of {len({c['family'] for c in clips})} families",
        "time": f"{minutes:.1f} min" if minutes else "not recorded",
        "commit": str(results["provenance"].get("commit") or "unknown"),
    }
    grid = "".join(
        f"<div{' class=long' if len(v) > LONG else ''}><span>{escape(k)}</span>{escape(v)}</div>"
        for k, v in facts.items()
    )
    command = results["provenance"].get("command")
    line = f"<pre>{escape(str(command))}</pre>" if command else ""
    links = "".join(f'<a href="#{a}">{a.replace("_", " ")}</a>' for a in anchors)
    return (
        f'<header><h1>{escape(title)}</h1><p class="soft">A VLM that decides, a planner that drives, and how well '
        f"the two agree: decisions, plans and closed-loop drives in 3D Gaussian Splatting clips.</p>"
        f"<nav>{links}</nav></header>"
        f'{banner}<section id="run"><h2>What was run</h2><div class="facts">{grid}</div>{line}</section>'
    )


def _figures(figures: Sequence[Figure], section: str) -> str:
    return "".join(
        f"<figure><h3>{escape(f.title)}</h3>{f.svg}<figcaption>{escape(f.caption)}</figcaption></figure>"
        for f in figures
        if f.section == section
    )


def _videos(videos: Sequence[Video]) -> str:
    blocks = []
    for v in videos:
        data = base64.b64encode(v.read()).decode("ascii")
        blocks.append(
            f'<div class="video"><div class="head"><h3>{escape(v.family.replace("_", " "))}</h3>'
            f'<span class="caption">{escape(v.title)}</span></div>'
            f'<video controls muted playsinline preload="metadata" src="data:video/mp4;base64,{data}"></video>'
            f'<p class="caption">{escape(v.outcome)} · clip {escape(v.clip)}</p></div>'
        )
    lead = (
        "The same clip, two policies. Decision, speed and time are written over the front view; beside it the scene "
        "from above: ego blue, plan dark green, route light green, a collision red."
    )
    return _section("videos", "Drives", lead, "".join(blocks))


def _definitions(definitions: Mapping[str, Any]) -> str:
    words = "".join(
        f"<dt>{escape(k if k == 'f_K' else k.replace('_', ' '))}</dt><dd>{_code(str(v))}</dd>"
        for k, v in definitions.items()
        if k != "evaluator_version"
    )
    lead = f"Evaluator version {definitions['evaluator_version']}."
    return _section("definitions", "Definitions", lead, f'<dl class="words">{words}</dl>')


def _provenance(results: Mapping[str, Any]) -> str:
    def block(name: str, value: Any, opened: bool = False) -> str:
        text = escape(json.dumps(value, indent=1, ensure_ascii=False))
        return f"<details{' open' if opened else ''}><summary>{name}</summary><pre>{text}</pre></details>"

    body = block("provenance", results["provenance"], True)
    body += block("timings, s", results["timings_s"]) + block("recipe", results["recipe"])
    return _section("provenance", "Provenance", "What it takes to run this again.", body)
