"""The command line from outside: what it prints, and one clear line and an exit code for everything that is bad."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from senna2 import cli, doctor, registry
from senna2.evaluate.results import validate_results
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.recipes.measure import rows_of
from senna2.rollouts import drive
from senna2.train.loop import TrainingError
from senna2.types import Rig, Samples
from senna2.world.clip import load_clip, save_clip
from senna2.world.scene import Scene
from senna2.world.town.families import EXTENDED


@pytest.fixture(scope="module")
def whole_clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "street"
    save_clip(Scene.fake(frames=40), folder)
    return folder


@pytest.fixture
def clip(whole_clip, tmp_path) -> Path:
    """A clip to damage."""
    return Path(shutil.copytree(whole_clip, tmp_path / "clip"))


@pytest.fixture
def run(capfd):
    """Run a command; (exit code, stdout, last line of stderr). Nothing may end in a traceback."""

    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(w) for w in words])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        lines = err.strip().splitlines()
        return code, out, lines[-1] if lines else ""

    return call


# ---------------------------------------------------------------- what works


def test_list_prints_what_is_registered(run):
    code, out, _ = run("list", "--json")
    assert code == 0
    assert json.loads(out) == {kind: registry.listing(kind) for kind in registry.BUILT_IN}
    code, out, _ = run("list", "policies")
    assert code == 0
    assert "constant_velocity" in out
    assert "recipes" not in out


def test_label_counts_a_recorded_drive(run, tmp_path):
    t = 0.1 * np.arange(60)
    path = tmp_path / "drive.npy"
    np.save(path, np.column_stack([t, 8 * t, 0 * t, 0 * t]))
    code, out, _ = run("label", path, "--json")
    assert code == 0
    counts = json.loads(out)
    assert counts["speed"]["KEEP SPEED"]["count"] == counts["frames"] == 46
    assert run("label", path)[1].count("KEEP SPEED") == 1


def test_check_says_what_is_in_a_clip(run, whole_clip):
    code, out, _ = run("scene", "check", whole_clip, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["agents"] == {"car": 1}
    assert told["cameras"] == list(Scene.fake().rig.names)


def _colliding() -> Scene:
    return Scene.fake(frames=40, leader_v=0.0, gap=15.0)


def test_check_tells_what_is_wrong_and_exits_with_1(run, whole_clip, tmp_path):
    save_clip(_colliding(), tmp_path / "crash")
    code, out, _ = run("scene", "check", tmp_path / "crash")
    assert code == 1
    assert "error   expert: collides with leader at" in out
    code, out, _ = run("scene", "check", tmp_path / "crash", "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["errors"], told["warnings"]) == (1, 0)
    assert told["findings"][0].keys() == {"level", "where", "what", "fix"}
    code, out, _ = run("scene", "check", whole_clip)
    assert code == 0
    assert "findings:\n  none" in out


def test_check_takes_several_clips_and_folders_of_them(run, whole_clip, tmp_path):
    save_clip(_colliding(), tmp_path / "all" / "crash")
    save_clip(Scene.fake(frames=40), tmp_path / "all" / "quiet")
    code, out, _ = run("scene", "check", whole_clip, tmp_path / "all", "--json")
    assert code == 1
    told = json.loads(out)
    assert [Path(c["clip"]).name for c in told["clips"]] == ["street", "crash", "quiet"]
    assert [c["errors"] for c in told["clips"]] == [0, 1, 0]
    assert told["errors"] == 1
    (tmp_path / "all" / "quiet" / "route.json").unlink()
    code, out, line = run("scene", "check", whole_clip, tmp_path / "all", tmp_path / "nowhere", "--json")
    assert code == 2
    assert "nowhere: is not a clip folder" in line
    assert len(json.loads(out)["clips"]) == 2


def test_make_takes_a_set_and_a_duration(run, tmp_path):
    words = ("scene", "make", "--set", "extended", "--seed", "3", "--duration", "4", "--out", tmp_path, "--json")
    code, out, line = run(*words)
    assert code == 0, line
    (folder,) = json.loads(out)["clips"]
    scene = load_clip(Path(folder))
    assert scene.meta.family == EXTENDED[0]
    assert scene.duration_s == pytest.approx(4.0)
    assert Path(folder).name == f"{EXTENDED[0]}-3-4s"
    assert run("scene", "check", folder)[0] == 0


def test_make_writes_exactly_the_asked_clip(run, tmp_path):
    words = ("scene", "make", "--family", "empty_road", "--seed", "7", "--out", tmp_path, "--json")
    code, out, _ = run(*words)
    assert code == 0
    (folder,) = json.loads(out)["clips"]
    info = json.loads((Path(folder) / "clip.json").read_text())
    assert (info["family"], info["seed"], info["split"]) == ("empty_road", 7, "test")
    (Path(folder) / "map.json").write_text("{")  # damaged: "make or copy the clip again"
    assert run(*words, "--split", "val")[0] == 0
    assert json.loads((Path(folder) / "clip.json").read_text())["split"] == "val"
    assert run("scene", "check", folder)[0] == 0


def test_view_writes_a_picture(run, whole_clip, tmp_path):
    code, out, _ = run("scene", "view", whole_clip, "--out", tmp_path / "deep" / "sheet.png", "--scale", "0.5")
    assert code == 0
    assert "sheet.png" in out
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["sheet.png"]


def test_view_writes_a_film(run, whole_clip, tmp_path):
    film = tmp_path / "deep" / "film.mp4"
    code, out, line = run("scene", "view", whole_clip, "--out", film, "--scale", "2")
    assert code == 0, line
    assert "frames: 39" in out
    assert [p.name for p in film.parent.iterdir()] == ["film.mp4"]
    assert imageio_ffmpeg.count_frames_and_secs(film) == (39, pytest.approx(3.9))


def test_eval_writes_valid_results(run, whole_clip, tmp_path):
    out_file = tmp_path / "deep" / "r.json"
    policies = ("constant_velocity", "idm", "expert")
    words = (
        "eval",
        "all",
        "--policy",
        *policies,
        "--scenes",
        whole_clip,
        "--out",
        out_file,
        "--workers",
        "0",
        "--json",
    )
    code, out, _ = run(*words)
    assert code == 0
    assert json.loads(out)["results"] == str(out_file)
    results = validate_results(json.loads(out_file.read_text()))
    assert set(results["policies"]) == set(policies)
    assert results["policies"]["expert"]["open_loop"]["fde_m"]["value"] == 0
    assert results["policies"]["expert"]["closed_loop"]["cr"]["value"] == 0
    assert sorted(p.name for p in out_file.parent.iterdir()) == ["r.json", "r.md"]
    assert {(c["a"], c["b"]) for c in results["comparisons"]} == {
        ("idm", "constant_velocity"), ("expert", "constant_velocity"), ("expert", "idm"),
    }  # fmt: skip
    page = out_file.with_suffix(".md").read_text()
    for title in ("Table 1 · consistency", "Table 2 · open loop", "Table 3 · closed loop", "Control", "Comparisons"):
        assert f"\n## {title}\n" in page
    assert "| `expert` | 0.000 " in page
    other = tmp_path / "README.md"
    other.write_text("years of work")
    code, _, err = run(*words[:-4], tmp_path / "README.json", "--workers", "0")
    assert code == 2
    assert "which is another file; choose another name" in err
    assert other.read_text() == "years of work"
    assert not (tmp_path / "README.json").exists()


def test_eval_perception_wants_a_checkpoint(run, whole_clip, tmp_path):
    words = ("eval", "perception", "--policy", "idm", "--scenes", whole_clip, "--out", tmp_path / "p.json")
    code, _, err = run(*words, "--workers", "0")
    assert code == 2
    assert "idm: drives without a network; give a checkpoint, or one of" in err
    assert not (tmp_path / "p.json").exists()
    words = ("eval", "closed", "--policy", "idm", "--scenes", whole_clip, "--out", tmp_path / "thesis.tex")
    (tmp_path / "thesis.tex").write_text("years of work")
    assert run(*words) == (2, "", f"senna2: --out {tmp_path / 'thesis.tex'}: give the name of a .json file")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_eval_drives_once_a_vlm_period(run, whole_clip, tmp_path):
    """Safety against VLM rate: a row a period, and one for the driver that has no VLM."""
    torch.set_num_threads(1)
    rig = load_clip(whole_clip).rig
    policy = DualSystem(PolicyConfig(obs="state", dim=32, blocks=1), rig, vlm=DrivingVLM.tiny(seed=0))
    policy.fit_planner(Samples.fake(64))
    policy.save_pretrained(tmp_path / "senna2" / "policy", {})
    out_file = tmp_path / "r.json"
    words = ("eval", "closed", "--policy", tmp_path / "senna2" / "policy", "idm", "--scenes", whole_clip)
    code, out, line = run(*words, "--out", out_file, "--workers", "0", "--vlm-period", "0.5", "2", "0.5")
    assert code == 0, line
    results = validate_results(json.loads(out_file.read_text()))
    rows = ["senna2 (VLM 0.5 s)", "senna2 (VLM 2 s)", "idm"]
    assert list(results["policies"]) == rows
    assert [r for r in rows if r in out] == rows
    assert {c["policy"] for c in results["clips"]} == set(rows)
    assert {(c["a"], c["b"]) for c in results["comparisons"]} == {
        (rows[1], rows[0]), (rows[2], rows[0]), (rows[2], rows[1]),
    }  # fmt: skip
    for words_again, says in (
        (("eval", "open", *words[2:], "--vlm-period", "1"), "--vlm-period: is for `eval closed`"),
        (("eval", "perception", *words[2:], "--vlm-period", "1"), "--vlm-period: is for `eval closed`"),
        ((*words, "--vlm-period", "0"), "--vlm-period 0: must be a positive"),
        ((*words[:3], "idm", *words[5:], "--vlm-period", "1"), "none of ['idm'] has a VLM"),
        ((*words, "--device", "gpu"), "device gpu: cannot be used (Expected one of cpu, cuda"),
        (("eval", "perception", *words[2:], "--device", "gpu"), "device gpu: cannot be used"),
    ):
        code, _, line = run(*words_again, "--out", tmp_path / "no.json")
        assert (code, says in line) == (2, True), line
    assert not (tmp_path / "no.json").exists()


def test_a_period_asks_the_vlm_as_often_as_it_says(whole_clip, tmp_path):
    clip = load_clip(whole_clip)
    policy = DualSystem(PolicyConfig(obs="state", dim=32, blocks=1), clip.rig, vlm=DrivingVLM.tiny(seed=0))
    policy.fit_planner(Samples.fake(64))
    policy.save_pretrained(tmp_path / "p", {})
    rows = rows_of({"p": str(tmp_path / "p")}, [1.0])
    driven = drive(rows["p (VLM 1 s)"](), clip, policy_name="p")
    planned = np.arange(len(driven) - 1)
    assert len(planned) > 12
    np.testing.assert_allclose(driven.decision_age_F[:-1], 0.1 * (planned % 10), atol=1e-6)


def test_checkpoints_compute_where_they_are_told_to(tmp_path):
    policy = DualSystem(PolicyConfig(obs="state", dim=32, blocks=1), Rig.fake(), hidden_size=8, seed=0)
    policy.fit_planner(Samples.fake(64))
    policy.save_pretrained(tmp_path / "p", {})
    rows = rows_of({"p": str(tmp_path / "p"), "idm": "idm"}, [], device="meta")  # of shapes alone: it is there always
    assert rows["p"]().device.type == "meta"
    assert rows["idm"] == "idm"


# ---------------------------------------------------------------- bad use


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("drive",), "invalid choice: 'drive'"),
        ((), "VERB"),
        (("train", "4", "--out", "x"), "invalid choice: '4'"),
        (("eval", "open", "--scenes", "x", "--out", "y"), "--policy"),
        (("run", "--seed", "-1"), "argument --seed: -1 is less than 0"),
        (("run", "--seed", "one"), "argument --seed: 'one' is no whole number"),
        (("scene", "make", "--out", "x", "--count", "0"), "argument --count: 0 is less than 1"),
        (("scene", "make", "--out", "x", "--count", "two"), "argument --count: 'two' is no whole number"),
        (("run", "--recipe", "math:pi", "--out", "x"), "math:pi: must be a function without arguments"),
        (("run", "--recipe", "math:sqrt", "--out", "x"), "math:sqrt: must be a function without arguments"),
        (("run", "--recipe", "results", "--jobs", "--seed", "1"), "--seed: has no effect here (--jobs lists"),
        (("run", "--recipe", "results", "--jobs", "--resume"), "--resume: has no effect here"),
        (("demo", "--weights", "x", "--pack", "y", "--workers", "2"), "--workers: has no effect here (--pack"),
        (
            ("eval", "perception", "--policy", "senna2", "--scenes", "core/test", "--out", "x.json", "--seed", "1"),
            "--seed: has no effect here (the perception heads draw nothing)",
        ),
        (("list", "colours"), "'colours' is no kind of item; kinds are"),
        (("run", "--recipe", "grand"), "--recipe grand: unknown; there are"),
        (("train", "1a", "--recipe", "grand", "--out", "x"), "--recipe grand: unknown; there are"),
        (("run", "--recipe", "no.module:f"), "--recipe no.module:f: No module named 'no'"),
        (("run", "--recipe", "json:nothing"), "--recipe json:nothing: module 'json' has no attribute 'nothing'"),
        (("run", "--recipe", "senna2.types:Rig.default"), "Rig.default"),
        (("run", "--recipe", "senna2.workers:one_thread_each"), "not a senna2.recipes.config.Recipe"),
        (("train", "1c", "--out", "x"), "train 1c: needs --from CKPT"),
        (("label", "no_such_file.csv"), "no_such_file.csv"),
        (("scene", "check", "no_such_folder"), "no_such_folder: is not a clip folder"),
        (("scene", "dress", "no_such_log.pkl", "--out", "x"), "no_such_log.pkl"),
        (("scene", "make", "--family", "parade", "--out", "x"), "--family parade: unknown; there are"),
        (("scene", "make", "--family", "parade", "--seed", "1", "--out", "x"), "--family parade: unknown"),
        (("scene", "make", "--split", "exam", "--out", "x"), "split 'exam' is unknown; there are"),
        (("scene", "make", "--set", "town", "--out", "x"), "--set town: unknown; there are ['core', 'extended']"),
        (("scene", "make", "--duration", "90", "--out", "x"), "duration_s"),
        (("scene", "make", "--duration", "long", "--out", "x"), "argument --duration: invalid float value"),
    ],
)
def test_bad_use_is_one_line_and_code_2(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, _, line = run(*words)
    assert code == 2
    assert line.startswith("senna2")
    assert says in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("policy", "scenes", "says"),
    [
        (
            "daydreamer",
            None,
            "--policy daydreamer: neither a registered policy nor a checkpoint folder; registered are",
        ),
        ("idm", "core/exam", "split 'exam' is unknown"),
        ("idm", "nowhere", "--scenes nowhere: neither a folder nor SET/SPLIT (sets: core"),
        ("idm", "empty", "holds no clip"),
    ],
)
def test_a_wrong_policy_or_scene_fails_before_anything_is_driven(
    run, whole_clip, tmp_path, monkeypatch, policy, scenes, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, line = run("eval", "closed", "--policy", policy, "--scenes", scenes or whole_clip, "--out", "r.json")
    assert (code, says in line) == (2, True), line
    assert not (tmp_path / "r.json").exists()


# ---------------------------------------------------------------- damaged clips


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _nan_pose(path: Path) -> None:
    table = pq.read_table(path)
    x = table["x"].to_numpy().copy()
    x[3] = np.nan
    pq.write_table(table.set_column(table.column_names.index("x"), "x", pa.array(x)), path)


def _without_front(path: Path) -> None:
    rig = json.loads(path.read_text())
    rig["cameras"][0]["name"] = "forward"
    path.write_text(json.dumps(rig))


def _without_field(path: Path) -> None:
    info = json.loads(path.read_text())
    del info["drivable"]
    path.write_text(json.dumps(info))


DAMAGE = [
    ("clip.json", _cut, "is not readable JSON"),
    ("clip.json", _without_field, "field 'drivable' is missing"),
    ("background.ply", _cut, "truncated"),
    ("background.ply", Path.unlink, "is missing; make or copy the clip again"),
    ("tracks.parquet", _cut, "is not a readable Parquet file"),
    ("tracks.parquet", _nan_pose, "column 'x' holds NaN or infinity (row 3)"),
    ("expert.parquet", _nan_pose, "column 'x' holds NaN or infinity (row 3)"),
    ("rig.json", _without_front, "has no camera 'front'"),
    ("map.json", lambda p: p.write_text("[]"), "must hold a JSON object"),
    ("route.json", Path.unlink, "is missing"),
]


@pytest.mark.parametrize(("name", "damage", "says"), DAMAGE, ids=lambda v: v if isinstance(v, str) else "")
def test_a_damaged_clip_is_named_by_file_and_field(run, clip, tmp_path, name, damage, says):
    damage(clip / name)
    results = tmp_path / "r.json"
    results.write_text("old")
    for words in (
        ("scene", "check", clip),
        ("eval", "closed", "--policy", "constant_velocity", "--scenes", clip, "--out", results, "--workers", "0"),
    ):
        code, _, line = run(*words)
        assert code == 2
        assert line.startswith("senna2: ")
        assert name in line
        assert says in line
    assert results.read_text() == "old"


def test_one_bad_clip_among_many_is_named(run, whole_clip, tmp_path):
    for name in ("a", "b"):
        folder = shutil.copytree(whole_clip, tmp_path / "clips" / name)
        info = json.loads((folder / "clip.json").read_text())
        (folder / "clip.json").write_text(json.dumps({**info, "name": name}))
    _cut(tmp_path / "clips" / "b" / "background.ply")
    words = ("eval", "closed", "--policy", "constant_velocity", "--scenes", tmp_path / "clips")
    code, _, line = run(*words, "--out", tmp_path / "r.json", "--workers", "0")
    assert code == 2
    assert str(tmp_path / "clips" / "b" / "background.ply") in line


# ---------------------------------------------------------------- damaged checkpoints


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    policy = DualSystem(PolicyConfig(obs="state", dim=32, blocks=1), Rig.fake(), hidden_size=8, seed=0)
    policy.fit_planner(Samples.fake(64))
    policy.save_pretrained(folder, {})
    return folder


def test_a_checkpoint_without_a_vlm_can_be_measured(run, whole_checkpoint, whole_clip, tmp_path):
    words = ("eval", "open", "--policy", whole_checkpoint, "--scenes", whole_clip, "--out", tmp_path / "r.json")
    code, out, line = run(*words, "--workers", "0")
    assert code == 0, line
    assert "small" in out


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "normalisation.json"])
@pytest.mark.parametrize("damage", [Path.unlink, _cut], ids=["missing", "cut off"])
def test_a_damaged_checkpoint_is_named_by_file(run, whole_checkpoint, whole_clip, tmp_path, name, damage):
    folder = shutil.copytree(whole_checkpoint, tmp_path / "checkpoint")
    damage(folder / name)
    words = ("eval", "open", "--policy", folder, "--scenes", whole_clip, "--out", tmp_path / "r.json")
    code, _, line = run(*words, "--workers", "0")
    assert code == 2
    assert str(folder) in line
    assert name in line


@pytest.mark.parametrize(
    ("words", "says"),
    [(("--from", "nowhere"), "nowhere: holds no checkpoint"), (("--data", "empty"), "empty: holds no samples")],
)
def test_a_stage_needs_what_it_is_given(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, _, line = run("train", "1b", *words, "--out", "out")
    assert code == 2
    assert says in line


# ---------------------------------------------------------------- places, disks, Ctrl-C


def _eval(clip: Path, out: Path) -> tuple[object, ...]:
    return ("eval", "closed", "--policy", "constant_velocity", "--scenes", clip, "--out", out, "--workers", "0")


def test_results_that_cannot_be_written_are_refused_at_once(run, whole_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("senna2.recipes.measure.measure", lambda *_, **__: pytest.fail("driven in vain"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "r.json", Path("/proc/r.json"), tmp_path):
        code, _, line = run(*_eval(whole_clip, out))
        assert code == 2
        assert line.startswith(f"senna2: --out {out}: ")


def test_pictures_and_clips_that_cannot_be_written_are_named(run, whole_clip, tmp_path):
    assert run("scene", "view", whole_clip, "--out", tmp_path / "sheet.txt")[0::2] == (
        2,
        f"senna2: --out {tmp_path / 'sheet.txt'}: the picture is a PNG, the film an MP4; give a name that ends in .png "
        "or .mp4",
    )
    (tmp_path / "file").write_text("")
    code, _, line = run("scene", "make", "--seed", "1", "--out", tmp_path / "file")
    assert code == 2
    assert str(tmp_path / "file") in line


def test_a_run_never_clears_a_strangers_folder(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, line = run("run", "--recipe", "smoke", "--out", tmp_path)
    assert code == 2
    assert f"--out {tmp_path}: is not empty and not a run of senna2" in line
    code, _, line = run("run", "--recipe", "smoke", "--out", tmp_path, "--resume")
    assert code == 2
    assert "holds no run (no run.json)" in line
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def _no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_reader_who_has_enough_is_no_error():
    """`senna2 list | head -1`: the pipe is closed before the rest is written."""
    words = "import sys, time; from senna2 import cli; time.sleep(0.5); sys.exit(cli.main(['list']))"
    with subprocess.Popen([sys.executable, "-u", "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() == 141


def test_a_full_disk_keeps_the_old_results(run, whole_clip, tmp_path, monkeypatch):
    out = tmp_path / "r.json"
    assert run(*_eval(whole_clip, out))[0] == 0
    before, tables = out.read_bytes(), out.with_suffix(".md").read_bytes()
    monkeypatch.setattr(Path, "write_text", _no_space)
    code, _, line = run(*_eval(whole_clip, out))
    assert code == 2
    assert (
        line == f"senna2: {out}: cannot be written (No space left on device); free disk space or choose another --out"
    )
    assert out.read_bytes() == before
    assert out.with_suffix(".md").read_bytes() == tables
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.md"]


def test_a_full_disk_leaves_no_half_clip(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pq, "write_table", _no_space)
    code, _, line = run("scene", "make", "--family", "empty_road", "--seed", "1", "--out", tmp_path)
    assert code == 2
    assert line.startswith(f"senna2: {tmp_path / 'empty_road-1'}: cannot be written (No space left on device)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted; give the line again"),
        (TrainingError("stage 1b, step 3: loss is nan"), 1, "stage 1b, step 3: loss is nan"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device; check the path"),
        (PermissionError(errno.EACCES, "Permission denied", "/etc/x"), 2, "/etc/x: Permission denied"),
    ],
)
def test_what_ends_a_job_is_one_line(run, whole_clip, monkeypatch, error, code, says):
    def ends(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("senna2.recipes.clips.load_clip", ends)
    found, _, line = run("scene", "check", whole_clip)
    assert found == code
    assert says in line


def test_a_fault_of_ours_is_not_hidden(whole_clip, monkeypatch):
    def bug(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("senna2.recipes.clips.load_clip", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["scene", "check", str(whole_clip)])


# ---------------------------------------------------------------- doctor


def test_the_doctor_checks_the_renderer_and_finds_ffmpeg(run):
    code, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert code == (0 if report["ok"] else 1)
    assert report["ok"] == (report["problems"] == [])
    assert "dB against the reference" in report["renderer"]
    assert report["video"].startswith("ffmpeg")


def test_the_doctor_gives_a_fix_for_each_problem(run, monkeypatch):
    monkeypatch.setattr(doctor, "_constraints", lambda: {"numpy": "0.1"})
    code, out, _ = run("doctor")
    assert code == 1
    assert "tested with 0.1: `pip install -c constraints.txt -e .`" in out


def test_the_doctor_survives_a_missing_package(run, monkeypatch):
    monkeypatch.setattr(doctor, "TESTED", ("numpy", "no-such-package"))
    code, out, _ = run("doctor", "--json")
    assert code == 1
    assert "no-such-package is not installed: run `make install`" in json.loads(out)["problems"]


def test_constraints_are_read_with_markers_and_comments(tmp_path, monkeypatch):
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text(
        "# numpy==9\nnumpy==2.1.0 ; python_version > '3.10'\ntorch==2.6.0  # cpu\nother==1\nnumba>=1\n"
    )
    monkeypatch.setattr(doctor, "__file__", str(root / "doctor.py"))
    assert doctor._constraints() == {"numpy": "2.1.0", "torch": "2.6.0"}
