import dataclasses
import math

import numpy as np
import pytest
import torch

from senna2.model.backbone import ImageEncoder, StateEncoder, box_relations, ray_features
from senna2.model.batch import Batch
from senna2.types import Camera, InputError, Rig, Samples

CHANNELS = (8, 8, 16, 16)


def _encoder(rig: Rig) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(rig, CHANNELS, 32)


def test_one_token_per_stride_8_cell_of_every_camera():
    rig = Rig.default()
    tokens = _encoder(rig)(Batch.from_samples(Samples.fake(2, rig)))
    assert tokens.shape == (2, 21 * 7 + 3 * 11 * 4, 32)
    assert torch.isfinite(tokens).all()


def test_rays_meet_the_ground_where_the_camera_projects_it():
    """Project a token's ground hit back through the pinhole: it must land on the token's own pixel."""
    camera = Rig.default()["left"]
    features = ray_features(camera)
    on_ground = features[:, 4] > 0
    hit = np.concatenate([features[:, :2] * 40, np.zeros((len(features), 1)), np.ones((len(features), 1))], 1)
    cam = hit @ np.linalg.inv(camera.cam_to_ego_44).T
    u, v = camera.fx * cam[:, 0] / cam[:, 2] + camera.cx, camera.fy * cam[:, 1] / cam[:, 2] + camera.cy
    cols = math.ceil(camera.width / 8)
    i = np.arange(len(features))
    assert on_ground.sum() > 10
    np.testing.assert_allclose(u[on_ground], (8 * (i % cols) + 0.5)[on_ground], atol=1e-2)
    np.testing.assert_allclose(v[on_ground], (8 * (i // cols) + 0.5)[on_ground], atol=1e-2)
    assert (hit[on_ground, 1] > 0).all()  # the left camera sees the left


def test_tokens_know_their_camera_by_its_rays():
    rig = Rig.default()
    samples = Samples.fake(1, rig)
    black = dataclasses.replace(samples, images={k: np.zeros_like(v) for k, v in samples.images.items()})
    tokens = _encoder(rig)(Batch.from_samples(black))[0, 147:].view(3, 44, 32)
    assert (tokens[0] - tokens[1]).abs().mean() > 0.05
    assert (tokens[1] - tokens[2]).abs().mean() > 0.05


def test_a_token_is_centred_where_its_ray_says():
    """Gradient of a token with respect to the pixels is symmetric about column 8j: the receptive field's centre."""
    camera = Camera.looking(
        "front", yaw_deg=0, fov_deg=80, width=168, height=56, horizon_row=20, position_in_ego=(1.7, 0, 1.5)
    )
    encoder = _encoder(Rig((camera,)))
    for m in encoder.net.modules():
        if isinstance(m, torch.nn.Conv2d):
            torch.nn.init.constant_(m.weight, 0.01)
        if isinstance(m, torch.nn.GroupNorm):
            m.forward = lambda x: x  # norms reach over the whole image
    x = torch.ones(1, 3, 56, 168, requires_grad=True)
    encoder.net.coarse.weight.data.zero_()  # the wider map is only as fine as 16 pixels
    encoder.net(x)[0, :, 3, 10].sum().backward()
    weight = x.grad[0].sum(0)
    u = ((weight.sum(0) * (torch.arange(168) + 0.5)).sum() / weight.sum()).item()
    assert u == pytest.approx(80.5, abs=0.6)


def test_batch_composition_never_leaks_into_a_sample():
    rig = Rig.default()
    batch = Batch.from_samples(Samples.fake(3, rig))
    encoder = _encoder(rig).train()
    alone = encoder(batch.take(torch.tensor([1])))
    torch.testing.assert_close(encoder(batch)[1], alone[0], atol=1e-5, rtol=1e-4)


def test_cameras_with_less_history_repeat_the_current_frame():
    rig = Rig.default()
    encoder = _encoder(rig)
    batch = Batch.from_samples(Samples.fake(2, rig))
    x = encoder._frames(batch.images["left"], None)
    assert x.shape == (2, 6, 28, 84)
    assert torch.equal(x[:, :3], x[:, 3:])
    front = encoder._frames(batch.images["front"], None)
    newest = (batch.images["front"][:, -1].float() / 255 - 0.45) / 0.25
    torch.testing.assert_close(front[:, 3:], newest.permute(0, 3, 1, 2))
    assert not torch.equal(front[:, :3], front[:, 3:])


def test_missing_camera_and_wrong_size_are_named():
    rig = Rig.default()
    samples = Samples.fake(2, rig)
    encoder = _encoder(rig)
    less = dataclasses.replace(samples, images={k: v for k, v in samples.images.items() if k != "rear"})
    with pytest.raises(InputError, match="'rear' is missing"):
        encoder(Batch.from_samples(less))
    short = dataclasses.replace(samples, images=dict(samples.images) | {"front": samples.images["front"][:, :1]})
    with pytest.raises(InputError, match=r"'front' has shape \(1, 56, 168, 3\), expected \(2,"):
        encoder(Batch.from_samples(short))


def test_state_tokens_ignore_padding_and_order_of_agents():
    torch.manual_seed(0)
    encoder = StateEncoder(32)
    samples = Samples.fake(2)
    tokens, valid = encoder(Batch.from_samples(samples))
    assert tokens.shape == (2, 24 + 12 + 2, 32)
    assert torch.isfinite(tokens).all()
    assert valid.sum(1).tolist() == [4, 4]  # one box, one lane, the route, and the token that is always there
    empty = dataclasses.replace(
        samples,
        boxes_NA6=np.full_like(samples.boxes_NA6, np.nan),
        classes_NA=np.full_like(samples.classes_NA, -1),
        lanes_NLP2=np.full_like(samples.lanes_NLP2, np.nan),
        lane_kinds_NL=np.full_like(samples.lane_kinds_NL, -1),
        route_NR2=np.full_like(samples.route_NR2, np.nan),
    )
    tokens, valid = encoder(Batch.from_samples(empty))
    assert torch.isfinite(tokens).all()
    assert valid.sum(1).tolist() == [1, 1]


def _relations(boxes_A6, route_R2, v=8.0) -> np.ndarray:
    samples = Samples.fake(1)
    boxes = np.full_like(samples.boxes_NA6, np.nan)
    boxes[0, : len(boxes_A6)] = boxes_A6
    motion = np.array([[v, 0, 0, 0]], np.float32)
    samples = dataclasses.replace(samples, boxes_NA6=boxes, motion_N4=motion, route_NR2=route_R2[None])
    batch = Batch.from_samples(samples)
    x, y, yaw, _, width, speed = torch.nan_to_num(batch.boxes_BA6).unbind(-1)
    out = box_relations(batch, torch.stack([x, y], -1), speed, yaw, width)[0, : len(boxes_A6)]
    return out.numpy() * (40, 4, 5, 10, 1)


def test_boxes_are_placed_along_and_beside_the_route():
    """A left bend of radius 30 m. One agent drives along it, 20 m ahead and 1 m to the left; one stands behind, where
    the route's first piece (a chord) goes on straight; one comes across from the left."""
    s = 3.0 * np.arange(1, 21)
    route = np.stack([30 * np.sin(s / 30), 30 * (1 - np.cos(s / 30))], -1).astype(np.float32)
    angle = 20 / 30
    on_bend = (29 * np.sin(angle), 30 - 29 * np.cos(angle), angle, 4.5, 1.8, 5.0)
    behind = (-10.0, -3.0, 0.0, 4.5, 1.8, 0.0)
    crossing = (10.0, 5.0, -np.pi / 2, 1.8, 0.6, 4.0)
    along, beside, sideways, closing, in_way = _relations(np.array([on_bend, behind, crossing]), route).T
    np.testing.assert_allclose(along[:2], (20, -10), atol=0.3)
    assert beside[0] == pytest.approx(1, abs=0.1)
    assert beside[1] == pytest.approx(-3, abs=0.6)
    np.testing.assert_allclose(sideways, (0, 0, -4), atol=0.3)
    np.testing.assert_allclose(closing[:2], (3, 8), atol=0.1)
    assert in_way[0] > 0.9 > 0.1 > in_way[2] >= 0
    assert in_way[1] == 0


def test_without_a_route_boxes_are_related_to_the_egos_axis():
    box = np.array([(30.0, 2.0, 0.0, 4.5, 1.8, 6.0)])
    nowhere = np.full((20, 2), np.nan, np.float32)
    np.testing.assert_allclose(_relations(box, nowhere)[0, :4], (30, 2, 0, 2), atol=1e-3)
