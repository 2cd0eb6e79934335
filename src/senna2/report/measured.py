"""The tables of `senna2 eval` as text: the paper's Tables 1 to 3, and control, for whatever policies were named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from senna2.report.markdown import TABLES, comparisons_section, measured_table

TITLE = "# What `senna2 eval` measured"
CONTROL = TABLES[5]


def measured_page(results: Mapping[str, Any]) -> str:
    """A row a policy, in the caller's order, in each table whose suite was measured; then each against each."""
    origin, rows = results["provenance"], list(results["policies"])
    told = (
        f"{results['recipe'].get('note', '')}. Every number is from the `.json` beside this page.\n\n"
        f"* command: `{origin.get('command')}`\n"
        f"* commit: {origin.get('commit') or 'unknown'}, {origin.get('time')}\n\n"
        "In each cell: value, [95 % interval over clips]."
    )
    tables = [measured_table(results, title, lead, rows, columns)
              for title, lead, _, columns in (*TABLES[:3], CONTROL)]  # fmt: skip
    more = [comparisons_section(results)] if results["comparisons"] else []
    return "\n\n".join([TITLE, told, *filter(None, tables), *more]) + "\n"
