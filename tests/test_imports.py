"""The rooms import in one direction, heavy libraries stay where they belong, files stay small, `--help` stays light."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "senna2"
FILES = sorted(SOURCE.rglob("*.py"))

# Each row may import the rows before it; within a row, a name may import those on its left, and itself.
ORDER = (
    ("types",),
    (
        "files",
        "frames",
        "config",
        "provenance",
        "arrays",
        "registry",
        "progress",
        "workers",
        "compiled",
        "decisions",
        "instructions",
        "geometry",
    ),
    ("world", "data", "model"),
    ("rollouts", "sample_plans", "abreast", "drivers", "displaced", "demonstrations"),
    ("train", "evaluate"),
    ("report",),
    ("recipes", "doctor"),
    ("cli",),
)
# In these rows no name imports another: world never knows the model, training never the evaluation.
APART = (2, 4)
EVALUATE_SEES = {
    "types",
    "files",
    "frames",
    "config",
    "provenance",
    "arrays",
    "decisions",
    "instructions",
    "geometry",
    "evaluate",
}

# What is imported inside a function against the order, and why.
AGAINST_THE_ORDER = {
    ("registry.py", "model"): "a checkpoint's policy is made only when a folder is named",
}
TORCH_IN_WORLD = tuple(f"world/render/{name}.py" for name in ("reference", "autograd", "gsplat", "tone"))
TORCH_ROOMS = ("model/", "train/", "recipes/", *TORCH_IN_WORLD)
TORCH_ELSEWHERE = {
    "doctor.py": "asks torch, inside a function, whether there is a GPU",
    "decisions.py": "f_K works on torch tensors too; torch is imported, inside a function, only for those",
}


def _room(module: str) -> str:
    """senna2.world.sim → world; senna2 itself (its version) → ''."""
    return module.split(".")[1] if "." in module else ""


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@functools.cache
def _imports(path: Path) -> list[tuple[str, bool]]:
    """(module, inside a function) of every import; `from senna2 import x` counts as senna2.x."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, node in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}: relative import"
            module = node.module or ""
            names = [f"senna2.{a.name}" for a in node.names] if module == "senna2" else [module]
            found += [(n, node in late) for n in names if n != "senna2.__version__"]
    return found


def _place(room: str) -> tuple[int, int]:
    for row, names in enumerate(ORDER):
        if room in names:
            return row, names.index(room)
    raise AssertionError(f"'{room}' has no place in ORDER")


def _own_room(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def violations(path: Path) -> list[str]:
    own = _own_room(path)
    row, column = _place(own)
    bad = []
    for module, late in _imports(path):
        if not module.startswith("senna2.") or _room(module) == own:
            continue
        other = _room(module)
        other_row, other_column = _place(other)
        allowed = other_row < row or (other_row == row and row not in APART and other_column < column)
        if not allowed and not (late and (_name(path), other) in AGAINST_THE_ORDER):
            bad.append(f"{_name(path)} imports {module}")
    return bad


def test_every_file_has_a_place():
    assert len(FILES) > 80
    for path in FILES:
        if _name(path) != "__init__.py":
            _place(_own_room(path))


def test_rooms_import_in_one_direction():
    assert [v for path in FILES if _name(path) != "__init__.py" for v in violations(path)] == []


def test_the_exceptions_are_still_needed():
    late = {(_name(p), _room(m)) for p in FILES for m, inside in _imports(p) if inside and m.startswith("senna2.")}
    assert set(AGAINST_THE_ORDER) <= late


def test_evaluation_sees_only_values():
    seen = {_room(m) for p in FILES if _own_room(p) == "evaluate" for m, _ in _imports(p) if m.startswith("senna2.")}
    assert seen <= EVALUATE_SEES
    assert "types" in seen


def _heavy(path: Path, library: str, *, also_late: bool = True) -> bool:
    return any(m.split(".")[0] == library and (also_late or not late) for m, late in _imports(path))


@pytest.mark.parametrize("library", ["torch", "transformers", "peft", "safetensors", "tokenizers"])
def test_torch_and_its_kin_stay_in_their_rooms(library):
    outside = {_name(p) for p in FILES if _heavy(p, library) and not _name(p).startswith(TORCH_ROOMS)}
    assert outside - set(TORCH_ELSEWHERE) == set()
    assert not any(_heavy(SOURCE / name, library, also_late=False) for name in TORCH_ELSEWHERE)


UNWANTED = ["mmcv", "mmdet", "lightning", "hydra", "torchvision", "timm", "torchcodec", "yaml", "pickle"]


@pytest.mark.parametrize("library", UNWANTED)
def test_what_must_not_be_there_is_not(library):
    """Pickle has one reader: the restricted one of MetaDrive's files."""
    users = [_name(p) for p in FILES if _heavy(p, library)]
    assert users == (["world/importers/restricted_pickle.py"] if library == "pickle" else [])


def test_the_rules_can_be_broken(tmp_path, monkeypatch):
    """The tests above see what they should: one file that breaks each rule."""
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "world").mkdir()
    path = tmp_path / "world" / "sim.py"
    path.write_text("from senna2.model import policy\ndef f():\n    import senna2.train.loop, torch\n")
    assert violations(path) == ["world/sim.py imports senna2.model", "world/sim.py imports senna2.train.loop"]
    assert _heavy(path, "torch")
    assert not _heavy(path, "torch", also_late=False)


def test_files_are_small_and_none_is_called_utils():
    tests = sorted(Path(__file__).parent.rglob("*.py"))
    lines = {p.name: len(p.read_text().splitlines()) for p in FILES}
    assert {name: n for name, n in lines.items() if n > 400} == {}
    assert not [p for p in [*FILES, *tests] if p.stem in ("utils", "util", "helpers", "misc", "common")]


VERBS = [
    [], ["run"], ["demo"], ["train"], ["eval"], ["label"], ["scene"], ["scene", "make"], ["scene", "dress"],
    ["scene", "check"], ["scene", "view"], ["scene", "sheet"], ["scene", "difficulty"],
    ["data"], ["data", "inspect"], ["data", "export"], ["doctor"], ["list"],
]  # fmt: skip
HELP = """
import contextlib, io, sys
from senna2.cli import build_parser, main
for words in {verbs}:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            main([*words, "--help"])
        except SystemExit as end:
            assert end.code == 0, words
    assert "usage: senna2" in text.getvalue(), words
heavy = {{"torch", "transformers", "numba", "peft", "scipy", "shapely", "pyarrow", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""


def test_help_imports_nothing_heavy():
    script = HELP.format(verbs=VERBS)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_verbs_above_are_all_there_are():
    from senna2.cli import build_parser

    parser = build_parser()
    choices = next(a.choices for a in parser._actions if isinstance(a.choices, dict))
    assert {v[0] for v in VERBS if v} == set(choices)
    for verb in ("scene", "data"):
        actions = next(a.choices for a in choices[verb]._actions if isinstance(a.choices, dict))
        assert {v[1] for v in VERBS if len(v) == 2 and v[0] == verb} == set(actions)


def test_the_console_script_prints_its_version():
    done = subprocess.run(
        [sys.executable, "-m", "senna2.cli", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("senna2 ")
