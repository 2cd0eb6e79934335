import json

import numpy as np
import pytest
import torch

from senna2.model.basis import PlanBasis
from senna2.types import InputError

T = np.arange(1, 31) * 0.1


def _residuals(n: int = 400, seed: int = 0) -> np.ndarray:
    """Constant acceleration, jerk and curvature in random amounts."""
    rng = np.random.default_rng(seed)
    a, j, c, d = rng.normal(size=(4, n, 1)) * np.array([1.2, 0.4, 0.3, 0.05])[:, None, None]
    return np.stack([a * T**2 / 2 + j * T**3 / 6, c * T**2 + d * T**4], -1)


@pytest.mark.parametrize("kind", ["modes", "points"])
def test_round_trip_and_unit_scale(kind):
    x = _residuals()
    basis = PlanBasis.fit(x, kind=kind)
    z = basis.encode(torch.tensor(x, dtype=torch.float32))
    assert z.shape == (400, 6 if kind == "modes" else 30, 2)
    torch.testing.assert_close(basis.decode(z), torch.tensor(x, dtype=torch.float32), atol=2e-3, rtol=0)
    if kind == "points":
        torch.testing.assert_close(z.pow(2).mean((0, 1)), torch.ones(2), atol=1e-3, rtol=0)
    else:  # white: unit second moments, no correlation, in the directions the data have
        second = torch.einsum("nka,nla->akl", z, z) / len(z)
        for axis in range(2):
            torch.testing.assert_close(second[axis, :2, :2], torch.eye(2), atol=0.02, rtol=0)


def test_modes_are_the_best_linear_code_of_their_size():
    """Eckart-Young: no rank-6 reconstruction beats the singular vectors of numpy."""
    rng = np.random.default_rng(1)
    x = np.cumsum(np.cumsum(rng.normal(size=(300, 30, 2)), 1), 1) * 0.01
    basis = PlanBasis.fit(x)
    z = torch.tensor(x, dtype=torch.float32)
    ours = ((basis.decode(basis.encode(z)) - z) ** 2).sum((0, 1)).numpy()
    for axis in range(2):
        s = np.linalg.svd(x[..., axis], compute_uv=False)
        assert ours[axis] == pytest.approx((s[6:] ** 2).sum(), rel=0.02)


def test_zero_is_the_inertial_reference_and_the_map_is_linear():
    basis = PlanBasis.fit(_residuals() + 1.0)
    assert (basis.decode(torch.zeros(3, 6, 2)) == 0).all()
    a, b = torch.randn(2, 6, 2), torch.randn(2, 6, 2)
    torch.testing.assert_close(basis.decode(a + 2 * b), basis.decode(a) + 2 * basis.decode(b))


def test_directions_absent_from_the_data_are_smooth():
    x = _residuals()
    x[..., 1] = 0  # a town without curves
    basis = PlanBasis.fit(x)
    shapes = basis.decode(torch.eye(6)[..., None].expand(6, 6, 2))[..., 1].numpy()
    rough = np.abs(np.diff(shapes[:3], 2, axis=1)).max(1) / np.abs(shapes[:3]).max(1)
    assert (rough < 0.1).all()
    assert np.abs(shapes).max() < 0.02


def test_decode_is_differentiable_and_l_safe_brakes_in_it():
    """In the whitened basis L_safe's gradient is a constant deceleration (cosine with t² above .9999)."""
    basis = PlanBasis.fit(_residuals())
    z = torch.zeros(1, 6, 2, requires_grad=True)
    plan = basis.decode(z) + torch.tensor(np.stack([8 * T, 0 * T], -1), dtype=torch.float32)
    (plan[:, 1:] - plan[:, :-1].detach()).pow(2).sum().backward()
    step = -basis.decode(z.grad)[0, :, 0].numpy()
    assert (step < 0).all()
    assert step @ -(T**2) / np.linalg.norm(step) / np.linalg.norm(T**2) > 0.99


def test_json_round_trip_is_exact():
    basis = PlanBasis.fit(_residuals())
    again = PlanBasis.from_json(json.loads(json.dumps(basis.to_json())))
    assert torch.equal(basis.shapes_2KT, again.shapes_2KT)
    assert torch.equal(basis.scale_2K, again.scale_2K)
    assert (again.kind, again.dt, again.steps, again.coefficients) == ("modes", 0.1, 30, 6)


def test_bad_input_is_refused():
    x = _residuals()
    x[3, 4, 1] = np.nan
    with pytest.raises(InputError, match="1 of 400 residuals hold NaN"):
        PlanBasis.fit(x)
    with pytest.raises(InputError, match="too few"):
        PlanBasis.fit(_residuals(11))
    with pytest.raises(InputError, match="shape"):
        PlanBasis.fit(_residuals()[..., 0])
    with pytest.raises(InputError, match="kind"):
        PlanBasis("bezier", np.zeros((2, 1, 30)), np.ones((2, 1)), dt=0.1, samples=1)
    good = PlanBasis.fit(_residuals()).to_json()
    with pytest.raises(InputError, match=r"a\.json: field 'scale_m'"):
        PlanBasis.from_json({k: v for k, v in good.items() if k != "scale_m"}, "a.json")
    with pytest.raises(InputError, match=r"a\.json.*positive"):
        PlanBasis.from_json(good | {"scale_m": [[0.0] * 6] * 2}, "a.json")
    with pytest.raises(InputError, match="schema"):
        PlanBasis.from_json([], "a.json")
