"""The texts say what is true: links lead somewhere, files they name exist, command lines parse, examples run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from senna2.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
SOURCE = ROOT / "src" / "senna2"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _command_lines() -> list[str]:
    """Every `senna2 …` line: in code blocks, and in the examples of tables and sentences."""
    lines = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
        for block in blocks:
            found = re.findall(r"(?:^|-m )(senna2(?:\.cli)? .*)$", block.replace("\\\n", " "), re.M)
            lines += [line.replace("senna2.cli", "senna2").split("#")[0].strip() for line in found]
        prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
        lines += [" ".join(m.split()) for m in re.findall(r"`(senna2 [a-z]+ [^`…]*?--out [^`…]*)`", prose)]
    return sorted(set(lines))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_they_name_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src/senna2|docs|examples|benchmarks|tests)/[\w./-]+?)/?`", text):
        if "<" not in name:
            assert (ROOT / name).exists(), f"{page.name}: {name}"
    for name in re.findall(r"`((?:world|model|train|evaluate|recipes|report|data)/[\w/]+\.py)\b", text):
        assert (SOURCE / name).exists(), f"{page.name}: {name}"


def test_command_lines_parse():
    lines = _command_lines()
    assert len(lines) > 12  # else the pattern finds nothing and the test says nothing
    parser = build_parser()
    for line in lines:
        try:
            parser.parse_args(shlex.split(line)[1:])
        except SystemExit:
            pytest.fail(f"does not parse: {line}")


@pytest.mark.parametrize("example", EXAMPLES, ids=_name)
def test_example_runs(example, tmp_path):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 60
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
