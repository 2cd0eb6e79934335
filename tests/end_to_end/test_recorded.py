"""Recordings as a user meets them: log → clip folder → every driver measured in it → what the results file says."""

import dataclasses
import functools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "world"))
from recorded_fixtures import NUSCENES, real_log, scenario, write_argoverse2, write_pickle

from senna2.demonstrations import Replay, replay
from senna2.drivers import ConstantVelocity, Expert
from senna2.evaluate.closed_loop import closed_loop
from senna2.recipes.clips import check_verb, view_verb
from senna2.recipes.measure import clip_shapes, collect_results, measure
from senna2.recipes.smoke import smoke
from senna2.recipes.stages import new_policy
from senna2.rollouts import drive
from senna2.types import AgentClass, InputError
from senna2.world.clip import load_clip, save_clip
from senna2.world.dress import dress_log
from senna2.world.importers.restricted_pickle import load_restricted

RECORDINGS = (*NUSCENES, "av2")
VEHICLES = (AgentClass.CAR, AgentClass.VAN, AgentClass.TRUCK, AgentClass.BUS)
RIDERS = (AgentClass.CYCLIST, AgentClass.MOTORCYCLE)
AV2_VEHICLES = ("VEHICLE", "TRUCK", "BUS", "TRAILER")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All five recordings, dressed and saved: a folder of clips."""
    out = tmp_path_factory.mktemp("recorded")
    for name in RECORDINGS:
        save_clip(dress_log(real_log(name)), out / name)
    return out


@pytest.fixture(scope="module")
def driven(folder):
    """`measure` of one policy over all five clips, each policy once."""
    clips = [folder / name for name in RECORDINGS]

    @functools.cache
    def once(spec):
        return closed_loop_of(spec, spec, clips)

    return once


def closed_loop_of(spec, name, clips):
    return measure({name: spec}, suites=("closed",), clips=clips, samples=None, shapes=clip_shapes(clips),
                   control_samples=0, seed=0, workers=0)[name]  # fmt: skip


def counted_in_the_log(name: str) -> Counter:
    """Things of the raw recording by kind, past the project's own readers."""
    if name != "av2":
        tracks = load_restricted(real_log(name))["tracks"]
        kinds = Counter(t["type"] for key, t in tracks.items() if key != "ego")
        return Counter(vehicles=kinds["VEHICLE"], riders=kinds["CYCLIST"], pedestrians=kinds["PEDESTRIAN"])
    import pyarrow.feather as feather

    boxes = feather.read_table(real_log(name) / "annotations.feather")
    of = dict(zip(boxes["track_uuid"].to_pylist(), boxes["category"].to_pylist(), strict=True))
    return Counter(
        vehicles=sum(any(word in c for word in AV2_VEHICLES) for c in of.values()),
        riders=sum(c in ("BICYCLIST", "MOTORCYCLIST", "WHEELED_RIDER", "MOTORCYCLE") for c in of.values()),
        pedestrians=sum(c == "PEDESTRIAN" for c in of.values()),
    )


def counted_in_the_clip(scene) -> Counter:
    kinds = {t.id.split("#")[0]: t.agent_class for t in scene.tracks}.values()
    return Counter(
        vehicles=sum(k in VEHICLES for k in kinds),
        riders=sum(k in RIDERS for k in kinds),
        pedestrians=sum(k == AgentClass.PEDESTRIAN for k in kinds),
    )


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_vehicle_rider_and_pedestrian_of_the_log_is_in_the_clip_on_disk(folder, name):
    scene = load_clip(folder / name)
    counts = counted_in_the_log(name)
    assert counts["vehicles"] > 20
    assert counted_in_the_clip(scene) == counts
    assert sum(check_verb(folder / name)["agents"].values()) == len(scene.tracks)


def test_the_expert_collides_nowhere(driven):
    expert = driven("expert")
    suite = expert.suites["closed_loop"]
    assert (suite["cr"].value, suite["af_cr"].value, suite["parked"].value) == (0.0, 0.0, 0.0)
    assert "agents only in 4 clips" in suite["cr"].note
    assert (suite["progress_ratio"].value, suite["progress_ratio"].n) == (pytest.approx(1.0), 4)  # 0553 stands
    assert (suite["off_road"].value, suite["off_road"].n) == (0.0, 1)  # only the Argoverse map says what is drivable
    for rollout in expert.rollouts:
        assert rollout.vehicle == "perfect"
        assert rollout.contacts == ()
        assert (rollout.off_road_F is None) == (not rollout.clip.startswith("av2"))


@pytest.mark.parametrize("policy", ["expert", "constant_velocity", "idm"])
def test_drivers_reach_the_end_or_the_contact_that_ends_the_clip(folder, driven, policy):
    reaches_the_end_or_a_contact(folder, driven(policy).rollouts, policy)


def reaches_the_end_or_a_contact(folder, rollouts, policy):
    for name, rollout in zip(RECORDINGS, rollouts, strict=True):
        clip = load_clip(folder / name)
        ended_by_contact = any(c.at_fault or c.kind == "static" for c in rollout.contacts)
        assert len(rollout.t_F) == len(clip.expert.t_E) or ended_by_contact
        assert rollout.ego_shape == clip.meta.ego_shape  # Zoe or Fusion, not the default car
        assert np.isfinite(rollout.progress_F).all()
        assert rollout.vehicle == ("perfect" if policy == "expert" else "bicycle")


def test_what_the_map_does_not_say_is_null_in_the_results(driven):
    policies = ("expert", "constant_velocity", "idm")
    results = collect_results({p: driven(p) for p in policies}, recipe={"name": "eval"}, seeds=[0], pairs=[])
    text = json.dumps(results, allow_nan=False)  # raises for NaN and infinity
    rows = {(r["policy"], r["clip"]): r for r in json.loads(text)["clips"]}
    assert len(rows) == 15
    for (_, clip), row in rows.items():
        assert (row["off_road"] is None) == (not clip.startswith("av2"))
        assert row["parked"] in (True, False)
        assert np.isfinite(row["progress_m"])
    for policy in policies:
        suite = results["policies"][policy]["closed_loop"]
        for metric in ("cr", "af_cr", "progress_ratio", "parked", "off_road"):
            assert np.isfinite(suite[metric]["value"])


def test_a_standing_expert_gives_no_progress_ratio(driven):
    standing = [r for r in driven("idm").rollouts if r.clip == "scene-0553"]
    suite = closed_loop(standing)
    assert suite["progress_ratio"].value is None
    assert "expert goes under" in suite["progress_ratio"].note
    assert suite["off_road"].value is None


def test_one_picture_shows_every_camera(folder, tmp_path):
    from PIL import Image

    view_verb(folder / "0103", tmp_path / "view.png", scale=1.0, frames=2)
    picture = np.asarray(Image.open(tmp_path / "view.png"))
    assert picture.shape == (2 * 56, 168 + 3 * 84 + 4 * 4, 3)
    front = picture[:56, :168].astype(float)
    road = front[-8:].mean((0, 1))
    assert 0.15 < (front[:16, :, 2] - front[:16, :, 0] > 25).mean() < 0.95  # blue above, between the houses
    assert np.ptp(road) < 20  # grey below
    assert 40 < road.mean() < 130
    assert front.std() > 15  # and something between


# ---------------------------------------------------------------- both systems


@pytest.fixture(scope="module")
def systems(folder, tmp_path_factory) -> dict[str, str]:
    """`senna` and `senna2` as checkpoint folders: real VLM, backbone and planner, untrained but for the plan basis."""
    out = tmp_path_factory.mktemp("systems")
    samples, _ = replay(load_clip(folder / "0061"), Replay(every=2, images=False))
    for name, adapter in (("senna", "decision"), ("senna2", "both")):
        policy = new_policy(smoke(), adapter=adapter)
        policy.fit_planner(samples)
        policy.eval().save_pretrained(out / name)
    return {name: str(out / name) for name in ("senna", "senna2")}


@pytest.mark.parametrize("name", ["senna", "senna2"])
def test_a_system_with_cameras_drives_a_recorded_clip(folder, systems, name):
    (rollout,) = closed_loop_of(systems[name], name, [folder / "0103"]).rollouts
    ended_by_contact = any(c.at_fault or c.kind == "static" for c in rollout.contacts)
    assert len(rollout.t_F) == 196 or ended_by_contact
    assert (rollout.vlm_decision_F2[:-1] >= 0).all()  # it decided, at every frame


@pytest.mark.slow
@pytest.mark.parametrize("name", ["senna", "senna2"])
def test_a_system_with_cameras_drives_every_recorded_clip(folder, systems, name):
    measured = closed_loop_of(systems[name], name, [folder / n for n in RECORDINGS])
    reaches_the_end_or_a_contact(folder, measured.rollouts, name)
    suite = measured.suites["closed_loop"]
    assert all(suite[m].value is not None for m in ("cr", "af_cr", "progress_ratio", "off_road", "parked"))


# ---------------------------------------------------------------- without the recordings: the command line


def senna2(*words) -> str:
    """The command line in a process of its own; its standard output."""
    done = subprocess.run([sys.executable, "-m", "senna2.cli", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_two_logs_of_two_cars_to_results_by_the_command_line(tmp_path):
    """Recordings of our own making in the vendors' layouts, one folder, two ego bodies, every suite."""
    (tmp_path / "logs").mkdir()
    logs = {"md": write_pickle(tmp_path / "logs" / "tiny.pkl", scenario()), "av": tmp_path / "logs" / "av"}
    write_argoverse2(logs["av"])
    for name, log in logs.items():
        told = json.loads(senna2("scene", "dress", log, "--out", tmp_path / "clips" / name, "--json"))
        assert told["family"] == "recorded"
        assert told["drivable"] == {"md": "unknown", "av": "known"}[name]
    shapes = clip_shapes([tmp_path / "clips" / name for name in logs])
    assert sorted(round(s.length, 2) for s in shapes.values()) == [4.08, 4.87]

    out = tmp_path / "results.json"
    shown = senna2("eval", "all", "--policy", "expert", "constant_velocity", "idm", "--scenes", tmp_path / "clips",
                   "--out", out, "--workers", "0")  # fmt: skip
    assert "progress_ratio" in shown
    results = json.loads(out.read_text())
    expert = results["policies"]["expert"]
    assert expert["closed_loop"]["cr"]["value"] == 0
    assert expert["closed_loop"]["progress_ratio"]["value"] == pytest.approx(1.0)
    assert expert["open_loop"]["fde_m"]["value"] == 0
    assert expert["open_loop"]["dcr"]["value"] == 0
    rows = {(r["policy"], r["clip"]): r for r in results["clips"]}
    assert len(rows) == 6
    assert {r["off_road"] for (_, clip), r in rows.items() if clip == "nuscenes-tiny"} == {None}
    assert all(r["off_road"] is not None for (_, clip), r in rows.items() if clip != "nuscenes-tiny")


def test_two_clips_of_one_name_are_refused_before_anything_is_driven(tmp_path):
    log = write_pickle(tmp_path / "s.pkl", scenario())
    for name in ("a", "b"):
        save_clip(dress_log(log), tmp_path / name)
    with pytest.raises(InputError, match="named 'nuscenes-tiny'"):
        clip_shapes([tmp_path / "a", tmp_path / "b"])


def test_the_body_a_contact_is_judged_with_is_the_clips_own(tmp_path):
    """A cone 1.2 m beside the ego's path is passed by the recorded car and hit by one a metre wider."""
    scene = dress_log(write_pickle(tmp_path / "s.pkl", scenario()))
    cone = next(t for t in scene.tracks if t.id == "cone")
    cone = dataclasses.replace(cone, pose_T3=cone.pose_T3 + np.array([0, 2.8, 0]))  # from y −4 to −1.2
    scene = dataclasses.replace(scene, tracks=(cone,))
    wide = dataclasses.replace(scene.meta, ego_shape=dataclasses.replace(scene.meta.ego_shape, width=2.73))
    for driver in (Expert(), ConstantVelocity()):
        assert drive(driver, scene, policy_name="d").contacts == ()
        hit = drive(driver, dataclasses.replace(scene, meta=wide), policy_name="d")
        assert [c.agent_id for c in hit.contacts] == ["cone"]
