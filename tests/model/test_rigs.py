"""Rigs that a policy was not trained with. That it runs is tested, not that it drives well."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from senna2.model.backbone import ray_features
from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.rigs import RigFit, fit_rig, scaled
from senna2.model.vlm.qwen import DrivingVLM
from senna2.registry import make_policy
from senna2.types import (
    Camera,
    ClipMeta,
    Decision,
    Direction,
    InputError,
    Observation,
    Rig,
    Samples,
    Speed,
)

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
NUSCENES = {
    "CAM_FRONT": "front", "CAM_FRONT_LEFT": "front_left", "CAM_FRONT_RIGHT": "front_right", "CAM_BACK": "rear",
    "CAM_BACK_LEFT": "rear_left", "CAM_BACK_RIGHT": "rear_right",
}  # fmt: skip


def _policy(**changes) -> DualSystem:
    config = PolicyConfig(dim=32, heads=2, blocks=2, channels=(8, 8, 16, 16), adapter="decision")
    policy = DualSystem(config, Rig.default(), any_rig=True, **changes)
    policy.fit_planner(Samples.fake(64))
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():  # leave the zeros of the initialisation, as training would
        for p in policy.planner.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    return policy.eval()


def _plan(policy: DualSystem, rig: Rig, observation: Observation) -> np.ndarray:
    policy.reset(dataclasses.replace(ClipMeta.fake(), rig=rig), 0)
    return policy.act(observation).trajectory.points_T2


def _camera(rig: Rig, name: str, **changes) -> Rig:
    return Rig(tuple(dataclasses.replace(c, **changes) if c.name == name else c for c in rig.cameras))


def test_the_trained_rig_and_extra_cameras_change_nothing():
    rig = Rig.default()
    observation = Observation.fake(rig)
    policy = _policy()
    assert fit_rig(rig, rig) is None
    plan = _plan(policy, rig, observation)
    roof = dataclasses.replace(Camera.fake(), name="roof")
    more = dataclasses.replace(observation, images={**observation.images, "roof": np.zeros((1, 16, 32, 3), np.uint8)})
    assert np.array_equal(_plan(policy, Rig((*rig.cameras, roof)), more), plan)
    policy.any_rig = False
    assert np.array_equal(_plan(policy, rig, observation), plan)
    with pytest.raises(InputError, match="any_rig=True"):
        _plan(policy, _camera(rig, "front", fx=90.0), observation)


def test_what_a_missing_camera_would_have_shown_does_not_matter(monkeypatch):
    rig = Rig.default()
    policy = _policy()
    less = Rig(tuple(c for c in rig.cameras if c.name != "left"))
    observation = Observation.fake(rig)
    plan = _plan(policy, less, observation)
    rng = np.random.default_rng(5)
    other = {**observation.images, "left": rng.integers(0, 256, observation.images["left"].shape, np.uint8)}
    assert np.array_equal(_plan(policy, less, dataclasses.replace(observation, images=other)), plan)
    assert np.abs(_plan(policy, rig, observation) - plan).max() > 1e-4
    fitted = RigFit.images
    noise = torch.from_numpy(other["left"])[None]
    monkeypatch.setattr(RigFit, "images", lambda fit, images: fitted(fit, images) | {"left": noise})
    assert np.array_equal(_plan(policy, less, observation), plan)  # whatever stands in for it is masked, not only black
    monkeypatch.undo()
    front = {k: v for k, v in observation.images.items() if k == "front"}
    alone = _plan(policy, Rig((rig["front"],)), dataclasses.replace(observation, images=front))
    assert np.isfinite(alone).all()
    # A new rig at every reset: nothing of the last one stays.
    assert np.array_equal(_plan(policy, less, observation), plan)


@pytest.mark.parametrize("image_tokens", [True, False])
def test_masked_tokens_reach_neither_queries_nor_planner(image_tokens):
    policy = _policy()
    policy.config = dataclasses.replace(policy.config, image_tokens=image_tokens)
    rig = policy.rig
    policy.use_rig(Rig((rig["front"], rig["rear"])))
    tokens = policy.encode(Batch.from_samples(Samples.fake(2, rig)))
    queries = 12 + 12 + 1
    if not image_tokens:
        assert tokens.valid_BS is None
        return
    valid = tokens.valid_BS[1]
    assert valid[: queries + 147].all()
    assert not valid[queries + 147 : queries + 147 + 88].any()  # left and right
    assert valid[queries + 147 + 88 :].all()


def test_a_sharper_camera_of_the_same_view_gives_the_same_plan():
    rig, policy = Rig.default(), _policy()
    observation = Observation.fake(rig)
    front = rig["front"]
    sharp = Rig((scaled(front, 2 * front.width, 3 * front.height), *rig.cameras[1:]))
    images = dict(observation.images)
    images["front"] = images["front"].repeat(2, axis=2).repeat(3, axis=1)
    plan = _plan(policy, rig, observation)
    seen = _plan(policy, sharp, dataclasses.replace(observation, images=images))
    np.testing.assert_allclose(seen, plan, atol=1e-4)
    fit = fit_rig(rig, sharp)
    np.testing.assert_allclose(fit.rays_SF.numpy(), np.concatenate([ray_features(c) for c in rig.cameras]), atol=1e-4)


def test_a_resized_camera_projects_a_point_to_the_same_place_of_its_image():
    """Also where the optical axis is not in the middle, as in real cameras."""
    camera = dataclasses.replace(Rig.default()["front"], cx=91.0, cy=17.5, fy=120.0)
    small = scaled(camera, 42, 28)
    point = np.random.default_rng(0).uniform((-3, -2, 4), (3, 2, 30), (50, 3))
    share = [
        np.stack([(c.fx * point[:, 0] / point[:, 2] + c.cx) / c.width,
                  (c.fy * point[:, 1] / point[:, 2] + c.cy) / c.height])
        for c in (camera, small)
    ]  # fmt: skip
    np.testing.assert_allclose(share[1], share[0], atol=1e-12)


def test_another_lens_place_and_history_are_told_by_the_rays():
    rig, policy = Rig.default(), _policy()
    observation = Observation.fake(rig)
    plan = _plan(policy, rig, observation)
    turned = _camera(rig, "rear", cam_to_ego_44=rig["left"].cam_to_ego_44)
    assert np.abs(_plan(policy, turned, observation) - plan).max() > 1e-5
    rays = fit_rig(rig, turned).rays_SF
    torch.testing.assert_close(rays[-44:, 0], torch.from_numpy(ray_features(turned["rear"]))[:, 0])
    newest = {**observation.images, "front": observation.images["front"][-1:]}
    short = _plan(policy, _camera(rig, "front", history_s=(0.0,)), dataclasses.replace(observation, images=newest))
    doubled = {**observation.images, "front": newest["front"].repeat(2, axis=0)}
    np.testing.assert_allclose(short, _plan(policy, rig, dataclasses.replace(observation, images=doubled)), atol=1e-4)


def test_what_does_not_fit_is_named():
    rig, policy = Rig.default(), _policy()
    observation = Observation.fake(rig)
    less = dataclasses.replace(observation, images={"front": observation.images["front"]})
    zoomed = _camera(rig, "front", fx=90.0)
    with pytest.raises(InputError, match="camera 'left' is in the rig, but not among the images"):
        _plan(policy, zoomed, less)
    side = Rig((dataclasses.replace(rig["left"]),))
    with pytest.raises(InputError, match="none of its cameras"):
        fit_rig(Rig((rig["front"],)), side)


def test_a_loaded_policy_takes_any_rig_and_a_forced_decision(tmp_path):
    _policy().save_pretrained(tmp_path / "c")
    rig = Rig((Rig.default()["front"],))
    stop = Decision(Speed.STOP, Direction.STRAIGHT)
    policy = make_policy(str(tmp_path / "c"), any_rig=True, forced=lambda _o, _said: stop)
    policy.reset(dataclasses.replace(ClipMeta.fake(), rig=rig), 0)
    assert policy.act(Observation.fake(rig)).decision == stop
    with pytest.raises(InputError, match="no camera 'left'"):
        make_policy(str(tmp_path / "c")).reset(dataclasses.replace(ClipMeta.fake(), rig=rig), 0)
    with pytest.raises(InputError, match="are for checkpoints"):
        make_policy("idm", any_rig=True)


# ------------------------------------------------------------------------------------------------ real recordings


def _keyframe() -> tuple[Rig, dict[str, np.ndarray]]:
    """The six cameras of a nuScenes keyframe, on the ego's rear axle, and its images (1, 900, 1600, 3)."""
    folder = DATA / "mmdet3d_nuscenes"
    info = pickle.loads(next(folder.glob("*.pkl")).read_bytes())["data_list"][0]
    cameras, images = [], {}
    for name, ours in NUSCENES.items():
        c = info["images"][name]
        images[ours] = np.asarray(Image.open(folder / c["img_path"]).convert("RGB"))[None]
        k = np.array(c["cam2img"])
        height, width = images[ours].shape[1:3]
        cameras.append(Camera(ours, width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2], np.array(c["cam2ego"])))
    return Rig(tuple(cameras)).validate(), images


def _drives(rig: Rig, images: dict[str, np.ndarray], policy: DualSystem) -> np.ndarray:
    observation = dataclasses.replace(Observation.fake(rig), images=images, state=None).validate()
    policy.reset(dataclasses.replace(ClipMeta.fake(), rig=rig), 0)
    plan = policy.act(observation).validate()
    assert plan.trajectory.points_T2.shape == (30, 2)
    assert plan.vlm_decision is not None
    return plan.trajectory.points_T2


@pytest.mark.skipif(not (DATA / "mmdet3d_nuscenes").is_dir(), reason="shared/data/mmdet3d_nuscenes is not here")
def test_it_runs_on_a_six_camera_keyframe_of_nuscenes():
    rig, images = _keyframe()
    policy = _policy(vlm=DrivingVLM.tiny(seed=0))
    plan = _drives(rig, images, policy)
    assert policy._fit.present == ("front", "rear")
    mirrored = {k: v[:, :, ::-1] for k, v in images.items()}
    assert np.abs(_drives(rig, mirrored, policy) - plan).max() > 1e-5  # it does look


@pytest.mark.skipif(not (DATA / "drivelm").is_dir(), reason="shared/data/drivelm is not here")
@pytest.mark.skipif(not (DATA / "mmdet3d_nuscenes").is_dir(), reason="shared/data/mmdet3d_nuscenes is not here")
def test_it_runs_on_frames_of_drivelm():
    """DriveLM gives no calibration; its frames are of nuScenes' cars, so the keyframe's stands in."""
    rig, _ = _keyframe()
    policy = _policy(vlm=DrivingVLM.tiny(seed=0))
    scenes = json.loads((DATA / "drivelm" / "train_sample.json").read_text())
    plans = []
    for scene in scenes.values():
        for frame in list(scene["key_frames"].values())[:2]:
            paths = {ours: DATA / "drivelm" / "images" / frame["image_paths"][c].split("samples/")[-1]
                     for c, ours in NUSCENES.items()}  # fmt: skip
            if not all(p.is_file() for p in paths.values()):
                continue
            images = {k: np.asarray(Image.open(p).convert("RGB"))[None] for k, p in paths.items()}
            plans.append(_drives(rig, images, policy))
    assert len(plans) >= 1
    assert np.isfinite(plans).all()
