"""Skies, weather and lamps: closed forms, and the CPU renderer against the reference."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from render_fixtures import SKY, assert_alike, lens, one, psnr, rig, street

from senna2.types import Array, Camera, EgoState, InputError, Rig
from senna2.world.render import Instance, Sky, posed
from senna2.world.render.base import unit_rays
from senna2.world.render.cpu import CpuRenderer
from senna2.world.render.reference import (
    ReferenceRenderer,
)
from senna2.world.scene import WEATHERS


@pytest.mark.parametrize("weather", ["dusk", "rain"])
def test_agrees_with_the_reference_in_every_weather(weather: str) -> None:
    instances, cameras, sky = street(), posed(rig(), EgoState(0, 0, 0.05, 0)), Sky.of(weather)
    glowing = dataclasses.replace(instances[1].cloud, sh_NK3=3 * instances[1].cloud.sh_NK3 + np.float32(2))
    instances[1] = Instance(glowing, instances[1].pose_44)
    by_day = CpuRenderer().render(instances, cameras, SKY)
    for got, want, day in zip(
        CpuRenderer().render(instances, cameras, sky),
        ReferenceRenderer().render(instances, cameras, sky),
        by_day,
        strict=True,
    ):
        assert_alike(got, want)
        assert psnr(got.rgb_HW3, day.rgb_HW3) < 25  # it is another weather
        np.testing.assert_array_equal(got.depth_HW, day.depth_HW)
        np.testing.assert_array_equal(got.alpha_HW, day.alpha_HW)


@pytest.mark.parametrize("renderer", [CpuRenderer(), ReferenceRenderer()], ids=["cpu", "reference"])
def test_weather_is_its_closed_form(renderer: CpuRenderer | ReferenceRenderer) -> None:
    """One gaussian of colour c fills the middle pixel to 0.8: light, then grey, then fog, then the sky behind."""
    z, opacity, rgb = 20.0, 0.8, np.array([0.9, 0.4, 0.2])
    instances = [Instance(one((z, 0, 0), 50.0, opacity, (0.9, 0.4, 0.2)))]

    def middle(sky: Sky) -> Array:
        return renderer.render(instances, [lens()], sky)[0].rgb_HW3[9, 15]

    horizon = np.array([0.1, 0.2, 0.3])
    flat = ((0.1, 0.2, 0.3), (0.1, 0.2, 0.3))
    light = np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(middle(Sky(*flat)), 0.8 * rgb + 0.2 * horizon, atol=1e-4)
    lit = middle(Sky(*flat, light_rgb=(0.5, 0.6, 0.7)))
    np.testing.assert_allclose(lit, 0.8 * rgb * light + 0.2 * horizon, atol=1e-4)  # the sky is not lit by its own light
    grey = rgb @ (0.2126, 0.7152, 0.0722)
    half = middle(Sky(*flat, saturation=0.5))
    np.testing.assert_allclose(half, 0.8 * (0.5 * rgb + 0.5 * grey) + 0.2 * horizon, atol=1e-4)
    clear = math.exp(-0.05 * z)
    fog = np.array([0.7, 0.8, 0.6])
    foggy = middle(Sky(*flat, fog_per_m=0.05, fog_rgb=(0.7, 0.8, 0.6)))
    np.testing.assert_allclose(foggy, 0.8 * (clear * rgb + (1 - clear) * fog) + 0.2 * horizon, atol=1e-4)
    faded = middle(Sky(*flat, fog_per_m=10.0))  # into the colour of the horizon
    np.testing.assert_allclose(faded, horizon, atol=1e-4)
    everything = Sky(*flat, (0.5, 0.6, 0.7), 0.5, 0.05, (0.7, 0.8, 0.6))
    lit = rgb * light
    lit = 0.5 * lit + 0.5 * (lit @ (0.2126, 0.7152, 0.0722))
    want = 0.8 * (clear * lit + (1 - clear) * fog) + 0.2 * horizon
    np.testing.assert_allclose(middle(everything), want, atol=1e-4)


@pytest.mark.parametrize("renderer", [CpuRenderer(), ReferenceRenderer()], ids=["cpu", "reference"])
def test_a_lamp_brighter_than_one_glows_at_dusk(renderer: CpuRenderer | ReferenceRenderer) -> None:
    lamp, paint = (Instance(one((6, 0, 0), 9.0, 1.0, rgb)) for rgb in ((4.0, 3.6, 2.4), (1.0, 0.9, 0.6)))
    glowing, painted = (renderer.render([i], [lens()], Sky.dusk())[0].rgb_HW3[9, 15] for i in (lamp, paint))
    assert glowing.min() > 0.95  # nothing was clipped before the light was turned down
    assert painted.max() < 0.6
    by_day = renderer.render([lamp], [lens()], Sky.day())[0].rgb_HW3
    assert by_day.max() == 1


def test_a_sky_is_named_by_its_weather() -> None:
    for weather, sky in (("day", Sky.day()), ("dusk", Sky.dusk()), ("rain", Sky.rain())):
        assert Sky.of(weather) == sky
    for weather in WEATHERS:
        Sky.of(weather)
    with pytest.raises(InputError, match="'snow' is unknown"):
        Sky.of("snow")
    assert Sky.rain().fog == Sky.rain().horizon_rgb


def test_the_sky_alone_is_its_gradient() -> None:
    camera = Camera.looking(
        "front", yaw_deg=30, fov_deg=80, width=40, height=60, horizon_row=25, position_in_ego=(0, 0, 1)
    )
    cameras = posed(Rig((camera,)), EgoState(3, 2, 1, 0))
    want = SKY.colour(unit_rays(camera).astype(np.float64) @ cameras[0].cam_to_world_44[2, :3])
    for renderer in (CpuRenderer(), ReferenceRenderer()):
        view = renderer.render([], cameras, SKY)[0]
        np.testing.assert_allclose(view.rgb_HW3, want, atol=1e-5)
        assert view.alpha_HW.max() == 0
        assert view.depth_HW.max() == 0
    np.testing.assert_allclose(want[40:], np.broadcast_to(SKY.horizon_rgb, want[40:].shape), atol=1e-12)
    assert want[0, 20, 0] < want[20, 20, 0]  # bluer towards the zenith
