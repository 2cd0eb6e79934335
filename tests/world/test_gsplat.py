"""The CUDA renderer's plumbing under a gsplat that computes with the reference, and the choice between renderers.

Where there is a CUDA device and gsplat, the true kernels are compared as well.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import logging
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

from senna2.frames import pose_to_matrix
from senna2.types import Array, Camera, EgoState, InputError, Rig
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import Instance, PosedCamera, Sky, View, gsplat, posed, select
from senna2.world.render.cpu import CpuRenderer
from senna2.world.render.gsplat import GsplatRenderer
from senna2.world.render.reference import ReferenceRenderer, covariance, render_gaussians
from senna2.world.render.rules import DEPTH_PHASE, DEPTH_STEPS, EPS_2D
from senna2.world.render.select import choose_renderer, probe

torch.set_num_threads(1)
HAS_GSPLAT = torch.cuda.is_available() and importlib.util.find_spec("gsplat") is not None
SKIES = {"day": Sky.day(), "fog": Sky((0.6, 0.6, 0.7), (0.2, 0.3, 0.5), (0.8, 0.7, 0.9), 0.6, 0.03, (0.5, 0.5, 0.6))}
Tensor = torch.Tensor


class FakeGsplat(types.ModuleType):
    """gsplat with the arguments that 1.5.3 and 1.6 share, drawn by the reference at float64."""

    def __init__(self) -> None:
        super().__init__("gsplat")
        self.calls = 0

    def rasterization(
        self,
        means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
        width: int, height: int, near_plane: float = 0.01, far_plane: float = 1e10, radius_clip: float = 0.0,
        eps2d: float = 0.3, sh_degree: int | None = None, packed: bool = True, tile_size: int = 16,
        backgrounds: Tensor | None = None, render_mode: str = "RGB",
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
        self.calls += 1
        n = len(means)
        assert (means.shape, quats.shape, scales.shape) == ((n, 3), (n, 4), (n, 3))
        assert (opacities.shape, colors.shape) == ((n,), (n, 3))
        assert (viewmats.shape, Ks.shape) == ((1, 4, 4), (1, 3, 3))
        assert {t.dtype for t in (means, quats, scales, opacities, colors, viewmats, Ks)} == {torch.float32}
        assert (sh_degree, backgrounds, render_mode, eps2d) == (None, None, "RGB+ED", EPS_2D)
        assert (far_plane, radius_clip) == (1e10, 0)
        camera = Camera("fake", width, height, *(float(Ks[0, i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))),
                        np.eye(4), near_plane)  # fmt: skip
        view = viewmats[0].double()
        means = means.double() @ view[:3, :3].T + view[:3, 3]
        # gsplat orders by the bits of depth: those within one step must be equal for it
        depth = means[opacities > 0, 2] * DEPTH_STEPS + DEPTH_PHASE
        np.testing.assert_allclose(depth - depth.floor(), 0.5, atol=0.15)
        cov = view[:3, :3] @ covariance(scales.double(), quats.double()) @ view[:3, :3].T
        no_veil = torch.zeros(n, dtype=torch.float64)  # a rule of ours that gsplat does not know
        rgb, depth, alpha = render_gaussians(means, cov, no_veil, opacities.double(), colors.double(), camera)
        image = torch.cat([rgb, depth[..., None]], -1)
        return image[None].float(), alpha[None, ..., None].float(), {}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeGsplat:
    module = FakeGsplat()
    monkeypatch.setitem(sys.modules, "gsplat", module)
    return module


@pytest.fixture(autouse=True)
def forget() -> None:
    """What was found out once a process is found out anew in each test."""
    select.why_not_gsplat.cache_clear()
    select._say_once.cache_clear()


def cameras(x: float = 0.0, y: float = 0.0) -> list[PosedCamera]:
    front = Camera.looking(
        "front", yaw_deg=3, fov_deg=80, width=50, height=24, horizon_row=9, position_in_ego=(1.7, 0, 1.5)
    )
    left = Camera.looking(
        "left", yaw_deg=75, fov_deg=100, width=33, height=20, horizon_row=8, position_in_ego=(1.2, 0.5, 1.5)
    )
    rig = Rig((dataclasses.replace(front, cx=28.3), dataclasses.replace(left, near=2.0)))
    return posed(rig, EgoState(x, y, 0.2, 0))


def scene(x: float = 0.0, y: float = 0.0, degree: int = 3) -> list[Instance]:
    """Gaussians of all sizes around the ego (veils and near ones among them), and one cloud twice, turned, with
    view-dependent colour."""
    rng = np.random.default_rng(0)

    def cloud(n: int, spread: tuple[float, float, float], size: float) -> GaussianCloud:
        quats = rng.normal(size=(n, 4))
        quats /= np.linalg.norm(quats, axis=1, keepdims=True)
        scales = np.exp(rng.normal(size, 0.8, (n, 3)))
        return GaussianCloud.from_rgb(
            rng.normal(0, spread, (n, 3)), scales, quats, rng.uniform(0.002, 0.99, n), rng.uniform(0, 1, (n, 3))
        )

    veil = GaussianCloud.from_rgb([[2.2, 4.2, 1.5]], [[2.0] * 3], [[1, 0, 0, 0]], [0.7], [[1, 0, 0]])
    background = GaussianCloud.concatenate([cloud(500, (9, 9, 2.5), -2), veil])  # beside the front view, and over it
    agent = cloud(80, (1.5, 0.7, 0.5), -1.5)
    rest = rng.normal(0, 0.3, (80, (degree + 1) ** 2 - 1, 3)).astype(np.float32)
    agent = dataclasses.replace(agent, sh_NK3=np.concatenate([agent.sh_NK3, rest], 1))
    poses = [pose_to_matrix(np.array(p)) for p in ((x + 7, y + 1, 2.0), (x + 3, y + 6, -0.7))]
    for pose in poses:
        pose[2, 3] = 1.0
    return [Instance(background, pose_to_matrix(np.array([x, y, 0.0]))), *(Instance(agent, pose) for pose in poses)]


def psnr(a: Array, b: Array) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) + 1e-20))


def assert_alike(got: View, want: View, floor: float) -> None:
    assert {a.dtype for a in (got.rgb_HW3, got.depth_HW, got.alpha_HW)} == {np.dtype(np.float32)}
    assert got.rgb_HW3.shape == want.rgb_HW3.shape
    assert psnr(got.rgb_HW3, want.rgb_HW3) >= floor
    assert psnr(got.alpha_HW, want.alpha_HW) >= floor
    assert psnr(got.depth_HW / 40, want.depth_HW / 40) >= floor


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("weather", list(SKIES))
def test_placement_colour_and_sky_agree_with_the_reference(fake: FakeGsplat, weather: str, degree: int) -> None:
    got = GsplatRenderer("cpu").render(scene(degree=degree), cameras(), SKIES[weather])
    want = ReferenceRenderer().render(scene(degree=degree), cameras(), SKIES[weather])
    assert fake.calls == 2
    for a, b in zip(got, want, strict=True):
        assert 0.2 < b.alpha_HW.mean() < 0.99
        assert_alike(a, b, 60)


def test_far_from_the_origin_of_the_map_nothing_is_lost(fake: FakeGsplat) -> None:
    near = GsplatRenderer("cpu").render(scene(), cameras(), SKIES["day"])
    far = GsplatRenderer("cpu").render(scene(40_000, -30_000), cameras(40_000, -30_000), SKIES["day"])
    for a, b in zip(far, near, strict=True):
        assert_alike(a, b, 80)


def test_no_instances_are_sky(fake: FakeGsplat) -> None:
    empty = GaussianCloud(*(getattr(GaussianCloud.fake(), f.name)[:0] for f in dataclasses.fields(GaussianCloud)))
    for instances in ([], [Instance(empty)]):
        for a, b in zip(
            GsplatRenderer("cpu").render(instances, cameras(), SKIES["fog"]),
            CpuRenderer().render(instances, cameras(), SKIES["fog"]),
            strict=True,
        ):
            assert_alike(a, b, 90)
    assert fake.calls == 0


def test_clouds_are_sent_once_and_let_go(fake: FakeGsplat) -> None:
    instances = scene()
    before = len(gsplat._clouds)
    for _ in range(2):
        GsplatRenderer("cpu").render(instances, cameras(), SKIES["day"])
    assert len(gsplat._clouds) == before + 2  # a background and one agent's cloud, drawn twice
    held = gsplat._clouds[instances[0].cloud]["cpu"][0]
    GsplatRenderer("cpu").render(instances, cameras(), SKIES["day"])
    assert gsplat._clouds[instances[0].cloud]["cpu"][0] is held
    del instances
    gc.collect()
    assert len(gsplat._clouds) == before


def test_bad_input_is_named(fake: FakeGsplat) -> None:
    good = GaussianCloud.fake()
    camera = cameras()[0]
    bad = dataclasses.replace(good, scales_N3=-good.scales_N3)
    with pytest.raises(InputError, match="scales_N3"):
        GsplatRenderer("cpu").render([Instance(bad)], [camera], SKIES["day"])
    with pytest.raises(InputError, match="instance: pose holds NaN"):
        GsplatRenderer("cpu").render([Instance(good, np.full((4, 4), np.nan))], [camera], SKIES["day"])
    close = PosedCamera(dataclasses.replace(camera.camera, near=0.0), camera.cam_to_world_44)
    with pytest.raises(InputError, match="near"):
        GsplatRenderer("cpu").render([Instance(good)], [close], SKIES["day"])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, fake: FakeGsplat) -> FakeGsplat:
    """A machine on which torch says CUDA is there; tensors stay on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(GsplatRenderer.__init__, "__defaults__", ("cpu", "gsplat"))
    return fake


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_a_working_gsplat_is_chosen(cuda: FakeGsplat, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "senna2.render"):
        assert choose_renderer().name == "gsplat"
        assert choose_renderer("gsplat").name == "gsplat"
    assert cuda.calls == 1  # probed once
    assert caplog.records == []
    assert probe(GsplatRenderer("cpu")) > 60


def test_without_cuda_one_line_says_so(no_cuda: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "senna2.render"):
        for _ in range(3):
            assert choose_renderer(threads=2) == CpuRenderer(2)
    (record,) = caplog.records
    assert "no CUDA device" in record.getMessage()
    assert "pip install senna2[gpu]" in record.getMessage()
    assert record.levelno == logging.INFO


def test_a_gsplat_that_draws_wrongly_is_not_used(
    cuda: FakeGsplat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    true = FakeGsplat.rasterization

    def mirrored(self: FakeGsplat, **arguments: Any) -> Any:
        images, alphas, meta = true(self, **arguments)
        return images.flip(2), alphas.flip(2), meta

    monkeypatch.setattr(FakeGsplat, "rasterization", mirrored)
    with caplog.at_level(logging.DEBUG, "senna2.render"):
        assert choose_renderer().name == "cpu"
        assert choose_renderer().name == "cpu"
    (record,) = caplog.records
    assert "dB from the CPU's" in record.getMessage()
    assert record.levelno == logging.WARNING
    with pytest.raises(InputError, match="dB from the CPU's"):
        choose_renderer("gsplat")


def test_a_gsplat_whose_kernels_do_not_build_is_named(cuda: FakeGsplat, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("ninja: build stopped")

    monkeypatch.setattr(cuda, "rasterization", broken)
    assert choose_renderer().name == "cpu"
    with pytest.raises(InputError, match=r"RuntimeError: ninja: build stopped.*senna2\[gpu\]"):
        choose_renderer("gsplat")


def test_named_renderers(no_cuda: None) -> None:
    assert choose_renderer("cpu", 3) == CpuRenderer(3)
    assert choose_renderer("reference").name == "reference"
    with pytest.raises(InputError, match=r"no CUDA device.*pip install senna2\[gpu\]"):
        choose_renderer("gsplat")
    with pytest.raises(InputError, match="no renderers named 'metal'"):
        choose_renderer("metal")


def test_a_missing_gsplat_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "gsplat", None)  # import fails
    with pytest.raises(InputError, match=r"renderer gsplat: .*gsplat.*pip install senna2\[gpu\]"):
        choose_renderer("gsplat")


def test_a_process_without_torch_stays_without() -> None:
    script = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "from senna2.world.render.select import choose_renderer\n"
        "assert [choose_renderer().name for _ in range(3)] == ['cpu'] * 3\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "torch is not loaded" in done.stderr


@pytest.mark.skipif(not HAS_GSPLAT, reason="needs a CUDA device and gsplat")
@pytest.mark.parametrize("weather", list(SKIES))
def test_the_cuda_kernels_agree_with_the_reference(weather: str) -> None:
    assert choose_renderer().name == "gsplat"
    got = GsplatRenderer().render(scene(), cameras(), SKIES[weather])
    for a, b in zip(got, ReferenceRenderer().render(scene(), cameras(), SKIES[weather]), strict=True):
        assert_alike(a, b, 55)
