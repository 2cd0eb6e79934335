"""One self-contained HTML page with tables, figures and videos of a run."""
