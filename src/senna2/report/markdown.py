"""docs/results/README.md: the counterparts of the paper's tables, from results.json and claims.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from senna2.registry import BUILT_IN
from senna2.report.claimed import claims_section
from senna2.report.media import Figure
from senna2.report.tables import clips_driven, fewer_clips, interval, number, verdict

Json = Mapping[str, Any]
Column = tuple[str, str]  # "suite.metric", heading

CONSISTENCY = ("straight", "left", "right", "keep", "accelerate", "decelerate", "stop", "avg")
TABLES: tuple[tuple[str, str, tuple[str, ...], tuple[Column, ...]], ...] = (
    (
        "Table 1 · consistency",
        "F1 between the VLM's decision and f_K of the plan; higher is better. `ceiling`: the expert's own; `accuracy`: "
        "of the decision itself; `coverage`: judged share.",
        ("senna", "senna@long", "senna2@1", "senna2@1long", "senna2@2", "senna2", "senna2@literal"),
        (*((f"consistency.{c}", c) for c in CONSISTENCY), ("consistency.ceiling", "ceiling"),
         ("consistency.decision_accuracy", "accuracy"), ("consistency.coverage", "coverage")),
    ),
    (
        "Table 2 · open loop",
        "Displacements in m, collision rates in %; lower is better.",
        ("constant_velocity", "idm", "senna", "senna@long", "senna2@1", "senna2@2", "senna2", "senna2@literal"),
        (("open_loop.fde_m", "FDE, m"), ("open_loop.ade_m", "ADE, m"), ("open_loop.cr", "CR, %"),
         ("open_loop.dcr", "DCR, %"), ("open_loop.scr", "SCR, %")),
    ),
    (
        "Table 3 · closed loop",
        "Shares of clips. Read AF-CR beside progress and parked: standing still is safe and useless.",
        ("constant_velocity", "naive", "idm", "expert", "senna", "senna@long", "senna2@1", "senna2@2", "senna2",
         "senna2@literal"),
        (("closed_loop.cr", "CR"), ("closed_loop.af_cr", "AF-CR"), ("closed_loop.safety_1", "Safety@1"),
         ("closed_loop.safety_2", "Safety@2"), ("closed_loop.progress_ratio", "progress"),
         ("closed_loop.parked", "parked"), ("closed_loop.off_road", "off-road"), ("closed_loop.finished", "finished")),
    ),
    (
        "Table 4 · adapter, after stage 1",
        "`senna2@1none`: no VLM; `senna`: decision tokens; `senna2@1vlm`: VLM token; `senna2@1`: both. Which of the "
        "differences are ties stands under Comparisons (`senna2@1` − each), over the clips that both drove.",
        ("senna2@1none", "senna", "senna2@1vlm", "senna2@1"),
        (("open_loop.fde_m", "FDE, m"), ("open_loop.cr", "CR, %"), ("closed_loop.af_cr", "AF-CR"),
         ("consistency.avg", "F1 avg")),
    ),
    (
        "Table 5 · stages",
        "`senna2@1long` and `senna@long` are stage 1 prolonged, by as many samples as stage 2, and as stages 2 and 3; "
        "`senna2@literal` is stage 3 with the paper's losses alone.",
        ("senna2@1", "senna2@1long", "senna@long", "senna2@2", "senna2", "senna2@literal"),
        (("open_loop.fde_m", "FDE, m"), ("open_loop.cr", "CR, %"), ("closed_loop.af_cr", "AF-CR"),
         ("closed_loop.progress_ratio", "progress"), ("consistency.avg", "F1 avg")),
    ),
    (
        "Control",
        "Under forced decisions, on frames with v₀ ≥ 3 m/s: share ordered rightly, and median of planned speed at 3 s "
        "over v₀. `instruction followed`: a passenger's words move the plan as asked; 0 is a policy that does not "
        "listen, .5 one that changes at random (ties are not followed), so only more than .5 is obedience.",
        ("senna", "senna2@1", "senna2@2", "senna2"),
        (("control.auroc_accelerate_keep", "accelerate > keep"), ("control.auroc_keep_decelerate", "keep > decelerate"),
         ("control.auroc_accelerate_decelerate", "accelerate > decelerate"), ("control.ratio_accelerate", "ratio acc."),
         ("control.ratio_keep", "ratio keep"), ("control.ratio_decelerate", "ratio dec."),
         ("control.instruction_followed", "instruction followed")),
    ),
    (
        "Showcase",
        "The six clips and their variations: share finished without collision or straddling.",
        ("constant_velocity showcase", "expert showcase", "senna showcase", "senna2 showcase"),
        (("closed_loop.finished", "finished"), ("closed_loop.cr", "CR"), ("closed_loop.af_cr", "AF-CR"),
         ("closed_loop.straddling", "straddling")),
    ),
)  # fmt: skip
SYSTEMS = (
    "constant_velocity", "idm", "transfuser", "vad", "vadv2", "genad", "diffusiondrive", "resad", "dit", "rad", "rad2",
    "senna_vadv2", "diffusiondrive+decision", "resad+decision", "senna", "senna@long", "senna2",
)  # fmt: skip
OF_SYSTEMS: tuple[tuple[str, str, tuple[str, ...], tuple[Column, ...]], ...] = (
    (
        "Systems · open loop",
        "Table 2 of the paper for the systems it builds on: each one's planner on the encoder of stage 1b, trained for "
        "as long as `senna2` (below); `dit`: Senna-2's own, alike. `+decision`, and `senna_vadv2`, are told the VLM's "
        "decision as `senna` is.",
        SYSTEMS,
        TABLES[1][3],
    ),
    ("Systems · closed loop", "Table 3 of the paper for the same.", SYSTEMS, TABLES[2][3]),
    (
        "Stage 3 and what may stand in its place",
        "All from `senna2@2`, each about as long as stage 3. `@literal`: the paper's losses alone; `@retime`: towards "
        "the plan of the start driven with another timing; `@mix`: with demonstrations among the frames; `@grpo` and "
        "`@ppo`: policy gradients on returns and on RAD's events, without alignment.",
        ("senna2@2", "senna2", "senna2@literal", "senna2@retime", "senna2@mix", "senna2@grpo", "senna2@ppo"),
        (*TABLES[4][3], ("closed_loop.off_road", "off-road"), ("closed_loop.parked", "parked")),
    ),
)  # fmt: skip
COSTS = (
    "Systems · cost",
    "CPU minutes of all trainings behind a row, stage 1b once, by training seed, on the machine that trained it "
    "(machines differ; the budgets are made equal by the ratios in planners.md, measured in one run); "
    "of trainings that are older than the count of CPU time, some of stages 1a and 1b, the clock's. "
    "What they were shown; parameters, the VLM's with them; CPU time "
    "of a plan in a batch of 64, encoder and a fresh decision with it.",
)


def results_page(results: Json, claims: Json, figures: Mapping[str, Figure]) -> str:
    """The page as text. `figures`: by the path under which they lie beside it; the first one stands at its head."""
    first, *others = [f"## {f.title}\n\n![{f.title}]({path})\n\n{f.caption}" for path, f in figures.items()] or [""]
    parts = ["# Results", _how(results), *([first] if first else []), "## Claims", claims_section(claims)]
    parts += [block for table in TABLES if (block := measured_table(results, *table))]
    ours = {row for table in TABLES for row in table[2]}
    more = [table for table in OF_SYSTEMS if any(row in results["policies"] for row in set(table[2]) - ours)]
    parts += [block for table in more if (block := measured_table(results, *table))]
    parts += [costs_table(results["costs"])] if more and results.get("costs") else []
    parts += others
    parts += [comparisons_section(results)] if results["comparisons"] else []
    return "\n\n".join(parts) + "\n"


def _how(results: Json) -> str:
    origin, recipe = results["provenance"], results["recipe"]
    hours = sum(results["timings_s"].values()) / 3600
    commits = sorted({str(row["commit"]) for row in origin.get("rows", {}).values() if row["commit"]})
    return (
        f"{recipe.get('note', '')} Every number is ours, from [results.json](results.json), where the whole "
        "configuration stands under `recipe`; [claims.json](claims.json) is made from it.\n\n"
        f"* command: `{recipe.get('command')}`, which goes on where it stopped, on any machine\n"
        f"* commits of the rows: {', '.join(commits) or 'unknown'}; of this page: {origin.get('commit') or 'unknown'}, "
        f"{origin.get('time')}\n"
        f"* training seeds: {', '.join(str(s) for s in results['seeds'])}; jobs: {hours:.1f} core-hours on "
        f"{origin.get('cores')} cores\n\n"
        "In each cell: value, [95 % interval over clips]; then each training seed's own value. The interval is that of "
        "other clips for these trained weights; what another training would give is seen in the seeds' values alone."
    )


def measured_table(results: Json, title: str, lead: str, rows: Sequence[str], columns: Sequence[Column]) -> str:
    """Rows that were measured; empty if none was."""
    lines: list[str] = []
    noted: dict[str, list[tuple[str, str]]] = {}  # by note: row and column
    for policy in rows:
        cells = []
        for metric, heading in columns:
            suite, name = metric.split(".", 1)
            value = results["policies"].get(policy, {}).get(suite, {}).get(name)
            cells.append(_cell(value))
            if value is not None and value.get("note"):
                noted.setdefault(value["note"], []).append((policy, heading))
        if any(cells):
            lines.append(f"| `{policy}` | {' | '.join(cells)} |")
    if not lines:
        return ""
    head = f"| | {' | '.join(h for _, h in columns)} |\n|{' --- |' * (len(columns) + 1)}"
    foot = [*_fewer(results, rows), *(_foot(n, where, len(lines), len(columns)) for n, where in noted.items())]
    return "\n\n".join([f"## {title}", lead, f"{head}\n" + "\n".join(lines), *(["\n".join(foot)] if foot else [])])


def _fewer(results: Json, rows: Sequence[str]) -> list[str]:
    """Which rows of a table stand on fewer clips or training seeds than others."""
    driven = clips_driven(results, rows)
    most = max(driven.values(), default=0)
    clips: dict[int, list[str]] = {}
    for row, n in fewer_clips(results, rows).items():
        clips.setdefault(n, []).append(f"`{row}`")
    told = [f"* {', '.join(names)}: closed loop over {n} of the {most} clips; beside the others only under Comparisons"
            for n, names in clips.items()]  # fmt: skip
    once = [f"`{row}`" for row in driven if row.split()[0] not in BUILT_IN["policies"]
            and len(results["policies"][row]["closed_loop"]["af_cr"]["per_seed"]) < len(results["seeds"])]  # fmt: skip
    return told + ([f"* {', '.join(once)}: not all of the training seeds yet"] if once else [])


def _foot(note: str, where: Sequence[tuple[str, str]], rows: int, columns: int) -> str:
    """A note and what it is about: rows and columns, but not where it is about all of them."""
    about, headings = (list(dict.fromkeys(part)) for part in zip(*where, strict=True))
    parts = [f"`{row}`" for row in about] if len(about) < rows else []
    parts += headings if len(headings) < columns else []
    return f"* {', '.join(parts) or 'all'}: {note}"


def _cell(value: Json | None) -> str:
    if value is None:
        return ""
    if value["value"] is None:
        return "–"
    seeds = [v for v in value["per_seed"] if v is not None]
    own = f"<br>{' · '.join(number(v) for v in seeds)}" if len(seeds) > 1 else ""
    return f"{number(value['value'])} {interval(value['ci95'])}".strip() + own


def costs_table(costs: Json) -> str:
    """What each system cost to train and costs to ask."""
    title, lead = COSTS
    lines = ["| | minutes | planner's samples | VLM's samples | drives | parameters, M | ms a plan |",
             f"|{' --- |' * 7}"]  # fmt: skip
    for name in costs:
        c = costs[name]
        spent = " · ".join(number(m) for m in c["minutes"]) or "–"
        lines.append(f"| `{name}` | {spent} | {c['planner_samples']} | {c['vlm_samples']} | {c['drives']} | "
                     f"{c['parameters'] / 1e6:.2f} | {c['plan_ms']:.1f} |")  # fmt: skip
    return f"## {title}\n\n{lead}\n\n" + "\n".join(lines)


def comparisons_section(results: Json) -> str:
    lead = (
        "a − b, paired over the clips and training seeds that both have; a difference whose interval holds 0 is a tie. "
        f"Intervals are over clips, and not corrected for there being {len(results['comparisons'])} of them: one in "
        "twenty differences of nothing would be called one. Training seeds stand apart; where they disagree in sign, "
        "nobody is called better."
    )
    lines = ["| a | b | metric | difference | by seed | relative | clips | |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for c in results["comparisons"]:
        relative = "–" if c["relative"] is None else f"{100 * c['relative']:+.0f} %"
        difference = "–" if c["difference"] is None else f"{c['difference']:+.3f} {interval(c['ci95'])}".strip()
        own = " · ".join("–" if d is None else f"{d:+.3f}" for d in c["per_seed"])
        lines.append(f"| `{c['a']}` | `{c['b']}` | {c['metric']} | {difference} | {own} | {relative} | "
                     f"{c['paired_over']} | {verdict(c)[0]} |")  # fmt: skip
    return f"## Comparisons\n\n{lead}\n\n" + "\n".join(lines)
