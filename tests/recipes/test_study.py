"""The queue of a study holds every row and control arm, prolonged by what it says; what was made stays by content."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import senna2
from senna2.config import from_dict, to_dict
from senna2.data.store import samples_of, write_part
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.recipes import cache, clips
from senna2.recipes.arms import ARMS, PEER_ARMS, PEERS, arm_recipe, shown_to
from senna2.recipes.kept_weights import adopt_weights, keep_weights
from senna2.recipes.own_drives import DRIVEN
from senna2.recipes.results import Study, baselines, results, results_tiny, unguarded
from senna2.recipes.rows import Kept, least_class_share, spoken
from senna2.recipes.study import FULL, SHOWN, SIDE, clip_list, measured_by, plan_study
from senna2.recipes.study_report import unmeasured
from senna2.registry import make_policy
from senna2.types import Plans, Rig, Samples
from senna2.world.town.families import SHOWCASE, SPLITS


def test_the_plan_is_as_the_issue_asks(tmp_path):
    study = results()
    assert len(study.seeds) == 3
    assert study.clips.test >= 480
    assert study.evaluation.open_samples >= 5000
    assert len(clip_list(study, "showcase")) == 6 * 21
    queue = plan_study(study, tmp_path)
    for seed in study.seeds:
        for name in (*FULL, *SIDE):
            assert f"train/{seed}/{name}" in queue.jobs
            assert f"plans/{seed}/{name}" in queue.jobs
        driven = {n: sum(len(j.settings["clips"]) for k, j in queue.jobs.items() if k.startswith(f"drives/{seed}/{n}/"))
                  for n in (*FULL, *SIDE)}  # fmt: skip
        assert all(driven[n] == study.clips.test for n in FULL)
        assert all(driven[n] == study.side_clips for n in SIDE)
        shown = [j for k, j in queue.jobs.items() for n in SHOWN if k.startswith(f"showcase/{seed}/{n}/")]
        assert sum(len(j.settings["clips"]) for j in shown) == 2 * 6 * 21
    # Senna-2's own planner begun anew is a control, beside the systems that the issue names.
    rows = [n for n in measured_by(baselines(), queue) if not ARMS[n.split("/")[2]].anew]
    shown = [n for n in rows if (name := n.split("/")[2]) in PEERS and ARMS[name].planner not in DRIVEN]
    own, peers, every = (
        sum(queue.jobs[n].estimate_s for n in queue.chosen(wanted)) / 2 / 3600
        for wanted in (unmeasured(study, queue, None), shown, rows)
    )
    assert 5 < own < 8.5  # hours of two cores; with 15 % for two side by side under ten
    assert 8 < peers < 17  # of those that learn by imitation, with the clips and stage 1, which both share
    assert peers < every < 23  # with those that learn from their own drives


def test_clips_of_all_splits_differ():
    study = results()
    seen = [c for kind in SPLITS if kind != "val" for c in clip_list(study, kind)]
    assert len(seen) == len(set(seen))
    assert {f for f, _ in clip_list(study, "showcase")} == set(SHOWCASE)


def test_control_arms_go_on_by_what_the_stages_show():
    study = results()
    two, all_of_it = (arm_recipe(study, 1, n).stage1c.optim for n in ("senna2@1long", "senna@long"))
    shown = study.stage2.optim.steps * study.stage2.optim.batch
    assert shown <= two.steps * two.batch < shown + two.batch
    low = study.stage3.low
    wanted = shown_to(study, "planner", "2") + study.stage3.rounds * low.steps * low.batch
    assert wanted <= all_of_it.steps * all_of_it.batch < wanted + all_of_it.batch
    vlm = arm_recipe(study, 1, "1a@long").stage1a.optim
    assert vlm.steps * vlm.batch >= shown_to(study, "vlm", "23")
    assert [ARMS[n].start for n in ("1a@long", "senna2@1long", "senna@long")] == ["1a", "senna2@1", "senna"]
    seeds = {n: arm_recipe(study, 1, n).seed for n in ("1a", "1a@long", "senna@long")}
    assert seeds["1a"] == 1 != seeds["1a@long"]  # other samples in another order than the first time
    assert ARMS["senna"].adapter == ARMS["senna@long"].adapter == "decision"
    assert arm_recipe(study, 1, "senna2@literal").stage3.faithful
    assert arm_recipe(study, 1, "senna2").stage3 == study.stage3
    assert arm_recipe(study, 2, "senna").seed == 2


def test_a_choice_of_stage_3_touches_stage_3_alone(tmp_path):
    """What the queue keeps when stage 3 is tuned again."""
    study = results_tiny()
    other = dataclasses.replace(study, stage3=dataclasses.replace(study.stage3, lambda_anchor=2.0))
    before, after = plan_study(study, tmp_path).keys, plan_study(other, tmp_path).keys
    every = {n for n in before if before[n] != after[n]}
    changed = {n for n in every if n.split("/")[2] not in PEER_ARMS}
    assert {n.split("/")[2] for n in changed} == {"senna2", "senna2@literal"}
    assert {n.split("/")[2] for n in every - changed} == {"senna2@retime", "senna2@mix"}  # other settings of stage 3
    assert "train/0/senna2" in changed
    # Longer drives of stage 3 prolong the control arms, too: they are to have seen as much.
    longer = dataclasses.replace(study, stage3=dataclasses.replace(study.stage3, rounds=3))
    after = plan_study(longer, tmp_path).keys
    assert {"train/0/senna@long", "train/0/1a@long"} <= {n for n in before if before[n] != after[n]}
    assert before["train/0/senna2@2"] == after["train/0/senna2@2"]


def test_where_a_study_lies_is_not_in_its_keys(tmp_path):
    study = results_tiny()
    assert plan_study(study, tmp_path / "a").keys == plan_study(study, tmp_path / "b").keys


def test_a_study_survives_json():
    for study in (results(), results_tiny()):
        assert from_dict(Study, json.loads(json.dumps(to_dict(study))), "study") == study


def test_tiny_differs_in_size_and_guards_alone():
    full, tiny = results(), results_tiny()
    assert tiny.policy == full.policy
    assert tiny.vlm == full.vlm
    free = unguarded(full)
    for stage in ("stage1a", "stage2", "stage3"):
        a, b = (to_dict(getattr(s, stage)) for s in (free, tiny))
        assert {k for k in a if a[k] != b[k]} <= {"optim", "low", "high", "rounds"}


# --- content ------------------------------------------------------------------------------------------------


def test_clips_are_kept_while_settings_and_code_are_the_same(tmp_path, monkeypatch):
    folder = tmp_path / "clips"
    assert not cache.keep_if_same(folder, {"split": "train"}, ("frames.py",), resume=False)
    (folder / "clip").mkdir()
    assert cache.keep_if_same(folder, {"split": "train"}, ("frames.py",), resume=False)
    assert (folder / "clip").is_dir()
    monkeypatch.setattr(cache, "code_digest", lambda parts: "other")
    assert cache.keep_if_same(folder, {"split": "train"}, ("frames.py",), resume=True)  # a begun run is ended
    assert (folder / "clip").is_dir()
    assert not cache.keep_if_same(folder, {"split": "train"}, ("frames.py",), resume=False)
    assert not (folder / "clip").exists()
    (folder / "clip").mkdir()
    assert not cache.keep_if_same(folder, {"split": "test"}, ("frames.py",), resume=True)
    assert not (folder / "clip").exists()


def test_samples_go_with_the_settings_they_were_made_with(tmp_path):
    study = results_tiny()
    job = next(j for n, j in plan_study(study, tmp_path).jobs.items() if n.startswith("clips/train/"))
    assert {p.parent for p in job.clears} == {tmp_path / "samples" / "train"}
    assert [p.name for p in job.clears] == [p.name for p in job.outputs[:-1]]


def test_all_code_that_makes_clips_and_frames_is_in_their_digest():
    """Whatever the code of a digest imports of this package is in it, too."""
    root = Path(senna2.__file__).parent
    # Of no account for what is made: compiling, configuration, files, names, processes, bars.
    aside = {"compiled", "config", "files", "registry", "workers", "progress", "provenance"}
    for parts in (cache.CLIP_CODE, cache.FRAME_CODE):
        sources = [
            p for part in parts for p in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))
        ]
        for source in sources:
            for module in re.findall(r"^\s*from senna2\.([\w.]+) import", source.read_text(), re.M):
                file = module.replace(".", "/")
                inside = any(file == p.removesuffix(".py") or f"{file}/".startswith(f"{p}/") for p in parts)
                assert inside or module.split(".")[0] in aside, f"{source.name} imports senna2.{module}"


def test_clips_of_another_version_are_made_again_where_that_is_asked_for(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(clips, "run_jobs", lambda one, jobs, **_: [one(*job) for job in jobs])
    monkeypatch.setattr(clips, "save_clip", lambda scene, folder: (made.append(folder.name), _leave(folder)))
    monkeypatch.setattr(clips, "make_scene", lambda *_, **__: None)

    def run(count: int = 3, **more: bool) -> list[str]:
        made.clear()
        assert len(clips.make_clips("test", count, tmp_path, **more)) == count
        return list(made)

    first = run()
    assert len(first) == 3
    assert run() == run(same_code=True) == []
    monkeypatch.setattr(clips, "code_digest", lambda parts: "later")
    assert run() == []
    assert len(run(4)) == 1  # of the later version
    assert run(4, same_code=True) == first
    assert run(4, same_code=True) == []
    (tmp_path / clips.MADE).unlink()
    assert len(run(4, same_code=True)) == 4  # nobody knows which version made them


def _leave(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "clip.json").write_text("")


def test_samples_are_of_the_clips_that_were_asked_for(tmp_path):
    for name in ("a-1", "b-2", "of-an-earlier-run-3"):
        write_part(tmp_path, name, dataclasses.replace(Samples.fake(4, Rig.fake()), clips=(name,), families=("f",)))
    wanted = [Path("clips") / name for name in ("a-1", "b-2", "left-no-samples-4")]
    assert samples_of(tmp_path, wanted).states.clips == ("a-1", "b-2")


def test_the_digest_is_of_code():
    assert cache.code_digest(("frames.py",)) != cache.code_digest(("decisions.py",))
    assert cache.code_digest(cache.CLIP_CODE) == cache.code_digest(cache.CLIP_CODE)


# --- rows that are kept ------------------------------------------------------------------------------------


def test_only_rows_that_are_not_kept_under_the_same_key_are_measured(tmp_path):
    study = results_tiny()
    queue, kept = plan_study(study, tmp_path / "out"), Kept(tmp_path / "docs")
    (tmp_path / "row.npz").write_bytes(b"a row")
    every = set(unmeasured(study, queue, None))
    assert {n for n in every if n.startswith("rows/")} == set(measured_by(study, queue))
    job = f"rows/{study.seeds[1]}/senna2"
    kept.keep(job, queue.keys[job], tmp_path / "row.npz", {"train/1/1a": 3.0})
    again = Kept(tmp_path / "docs")  # as another machine finds it
    assert again.file(job).read_bytes() == b"a row"
    assert again.index[job]["seconds"] == {"train/1/1a": 3.0}
    assert set(unmeasured(study, queue, again)) == every - {job}
    other = dataclasses.replace(study, stage3=dataclasses.replace(study.stage3, lambda_anchor=2.0))
    assert job in unmeasured(other, plan_study(other, tmp_path / "out"), again)  # a row of other settings


def test_stage_one_is_kept_in_16_bit_and_adopted_elsewhere(tmp_path):
    """The VLM is that of 1a, the planner that of 1b; other settings do not adopt it, nor does a seed begun here."""
    study, here, there = results_tiny(), tmp_path / "here", tmp_path / "there"
    queue, kept = plan_study(study, here), Kept(tmp_path / "docs")
    sizes = {"dim": 32, "blocks": 1, "heads": 2, "channels": (8, 8, 16, 16), "agent_queries": 4, "map_queries": 4}
    made = {}
    for part, seed in (("1a", 1), ("1b", 2)):
        made[part] = DualSystem(PolicyConfig(**sizes), Rig.fake(), vlm=DrivingVLM.tiny(seed=seed), seed=seed)
        made[part].fit_planner(Samples.fake(24, Rig.fake()))
        made[part].save_pretrained(here / "stages" / "0" / part / "policy")
        queue.note(f"train/0/{part}", state="done", seconds=7.0)
        keep_weights(study, queue, here, kept)
        assert (tmp_path / "docs" / "stages").exists() == (part == "1b")  # both or nothing
    again, elsewhere = Kept(tmp_path / "docs"), plan_study(study, there)
    assert adopt_weights(study, elsewhere, there, again) == ["train/0/1a", "train/0/1b"]
    assert elsewhere.finished("train/0/1a")
    assert elsewhere.finished("train/0/1b")
    assert elsewhere.seconds() == {"train/0/1a": 7.0, "train/0/1b": 7.0}
    got = DualSystem.from_pretrained(there / "stages" / "0" / "1b" / "policy")
    for name, p in got.named_parameters():
        source = made["1a" if name.startswith("vlm.") else "1b"].get_parameter(name)
        torch.testing.assert_close(p, source.half().float(), rtol=0, atol=0, msg=name)
    assert adopt_weights(study, elsewhere, there, again) == []  # it is there now
    other = dataclasses.replace(study, stage1b=dataclasses.replace(study.stage1b, draws=2))
    assert adopt_weights(other, plan_study(other, tmp_path / "o"), tmp_path / "o", again) == []


def test_a_systems_weights_are_kept_and_driven_elsewhere(tmp_path):
    """Those of the first seed, by the system's name; a study elsewhere does not train them again."""
    study, here, there = results_tiny(), tmp_path / "here", tmp_path / "there"
    queue, kept = plan_study(study, here), Kept(tmp_path / "docs")
    policy = DualSystem(
        PolicyConfig(planner="vad", adapter="none", dim=32, heads=2, channels=(8, 8, 16, 16)), Rig.fake()
    )
    policy.fit_planner(Samples.fake(24, Rig.fake()))
    for seed in study.seeds:
        policy.save_pretrained(here / "stages" / str(seed) / "vad" / "policy")
        queue.note(f"train/{seed}/vad", state="done", seconds=7.0)
    keep_weights(study, queue, here, kept)
    assert [p.name for p in tmp_path.glob("docs/*/*") if p.is_dir()] == ["vad"]
    driven = make_policy(str(tmp_path / "docs" / "weights" / "vad"))
    assert driven.config.planner == "vad"
    elsewhere = plan_study(study, there)
    assert adopt_weights(study, elsewhere, there, Kept(tmp_path / "docs")) == ["train/0/vad"]
    assert elsewhere.finished("train/0/vad")


# --- class shares -------------------------------------------------------------------------------------------


def _said(speed, direction) -> tuple[Samples, Plans]:
    """Labels: half ACCELERATE (0), half KEEP (2), three quarters straight, one quarter left."""
    n = 8
    samples = dataclasses.replace(
        Samples.fake(n, Rig.fake()), counterfactual_N=np.zeros(n, bool),
        speed_N=np.repeat([0, 2], 4).astype(np.int8), direction_N=np.array([0] * 6 + [1, 3], np.int8),
    )  # fmt: skip
    plans = dataclasses.replace(Plans.fake(n), vlm_speed_N=np.array(speed, np.int8),
                                vlm_direction_N=np.array(direction, np.int8))  # fmt: skip
    return samples, plans


@pytest.mark.parametrize(
    ("speed", "direction", "least"),
    [
        ([0] * 4 + [2] * 4, [0] * 6 + [1] * 2, 1.0),
        ([0] * 6 + [2] * 2, [0] * 6 + [3] * 2, 0.5),  # KEEP at half its share; CHANGE LEFT folds to left
        ([0] * 4 + [2] * 4, [0] * 7 + [1], 0.5),
        ([0] * 8, [0] * 8, 0.0),
    ],
)
def test_the_most_neglected_class(speed, direction, least):
    samples, plans = _said(speed, direction)
    found = least_class_share([spoken(samples, plans)] * 2)
    assert found["value"] == pytest.approx(least)
    assert found["n_seeds"] == 2
