"""The claims as a Markdown table: what each one is, value, aim, guards, verdict, and why those are not held that are
not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from senna2.report.tables import interval, number

Json = Mapping[str, Any]

RULE = (
    "Held: the value reaches the aim, the interval over clips lies wholly on its side of no effect (0 for shares and "
    "differences, 1 for ratios to constant velocity; “not worse” needs only that it does not lie on the other side), "
    "every guard holds (its limit in brackets), and three training seeds stand behind it. Under the value: each "
    "training seed's own. What the rows are: Tables 4 and 5."
)
MEANING = {
    "imitation_fde_over_cv": "FDE of `senna2@1` over that of `constant_velocity`",
    "imitation_af_cr_over_cv": "AF-CR of `senna2@1` over that of `constant_velocity`",
    "consistency_gap_reduction": "share by which F1 of `senna2` is nearer to the ceiling than that of `senna@long`",
    "fde_vs_senna": "FDE of `senna2@1` against `senna`, after stage 1; guards: what the later stages add to it",
    "af_cr_reduction_vs_senna": "share by which AF-CR of `senna2` is less than that of `senna@long`",
    "stage2_gap_reduction": "share by which F1 of `senna2@2` is nearer to the ceiling than that of `senna2@1`",
    "stage2_over_prolonged": "that share, less what `senna2@1long` gains, which trained as long without agreement",
    "stage3_af_cr_reduction": "share by which AF-CR of `senna2` is less than that of `senna2@2`",
    "adapter_both": "F1 of `senna2@1` less that of the best other adapter (Table 4)",
    "control_accelerate_keep": "frames on which `senna2`, told ACCELERATE, is faster than told KEEP",
    "control_keep_decelerate": "frames on which `senna2`, told KEEP, is faster than told DECELERATE",
    "control_accelerate_decelerate": "frames on which `senna2`, told ACCELERATE, is faster than told DECELERATE",
    "showcase_finished": "share of showcase drives that the worst training seed of `senna2` finishes",
}
# What the paper reports for the nearest quantity. Its gap is that of F1 to 1, ours that to what the expert's own
# trajectories reach; its Senna is the original one, ours the same planner with the decision's embedding alone.
PAPER = {
    "consistency_gap_reduction": "33.9 % (gap to 1)", "fde_vs_senna": "−10.4 %",
    "af_cr_reduction_vs_senna": "30.6 %",
    "stage2_gap_reduction": "21 % (gap to 1)", "stage3_af_cr_reduction": "34.7 %",
}  # fmt: skip


def claims_section(claims: Json) -> str:
    """Rule, table, causes."""
    lines = ["| claim | value | aim | paper | guards | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for name, c in claims["claims"].items():
        guards = "<br>".join(
            f"{'✓' if g['held'] else '✗'} {k.replace('_', ' ')} {number(g['value'])} ({number(g['limit'])})"
            for k, g in c["guards"].items()
        )
        told = "**held**" if c["held"] else "not held"
        aim = f"{'≥' if c['better'] == 'higher' else '≤'} {c['aim']:g}"
        own = [number(v) for v in c["per_seed"] if v is not None]
        value = f"{number(c['value'])} {interval(c['ci95'])}".strip()
        value += f"<br>{' · '.join(own)}" if len(own) > 1 else ""
        what = f"`{name}`<br>{MEANING[name]}"
        lines.append(f"| {what} | {value} | {aim} | {PAPER.get(name, '')} | {guards} | {told} |")
    lost = {name: " ".join(c["cause"].split()) for name, c in claims["claims"].items() if not c["held"]}
    causes = [f"* `{name}` not held: {cause}" for name, cause in lost.items()]
    return f"{RULE}\n\n" + "\n".join(lines) + "".join(f"\n{line}" for line in ["", *causes] if causes)
