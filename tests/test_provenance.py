"""Where a result came from, without whose machine it was."""

import json

from senna2.provenance import provenance, shareable_command


def test_the_command_holds_no_home():
    line = ["/home/me/.venv/bin/senna2", "run", "--out", "/home/me/secret/runs/a", "--only", "rows/0/*", "runs/b",
            "--weights=/home/me/private/w", "--a=b"]  # fmt: skip
    assert shareable_command(line) == "senna2 run --out a --only rows/0/* runs/b --weights=w --a=b"


def test_a_record_is_json_and_names_what_matters():
    record = provenance(3, stage="1b")
    assert json.loads(json.dumps(record)) == record
    assert {"commit", "command", "seed", "time", "versions", "stage"} <= set(record)
    assert record["seed"] == 3
    assert "/" not in record["platform"]
