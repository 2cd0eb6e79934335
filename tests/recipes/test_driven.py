"""Rollouts and plans survive their files."""

import dataclasses

import numpy as np
import pytest

from senna2.recipes.driven import load_plans, load_rollouts, save_plans, save_rollouts
from senna2.types import Contact, InputError, Plans, Rollout


def test_rollouts_survive_their_file(tmp_path):
    contact = Contact(0.3, "leader", 0, True, "front", 8.0)
    one = dataclasses.replace(Rollout.fake(5), contacts=(contact,), clip="a")
    other = dataclasses.replace(Rollout.fake(7), off_road_F=None, straddle_F=None, clip="b")
    other.plans_FT2[3] = np.nan
    save_rollouts(tmp_path / "r.npz", [one, other])
    again = load_rollouts(tmp_path / "r.npz")
    for a, b in zip((one, other), again, strict=True):
        for f in dataclasses.fields(a):
            x, y = getattr(a, f.name), getattr(b, f.name)
            if isinstance(x, np.ndarray):
                np.testing.assert_allclose(x, y, rtol=1e-6, err_msg=f.name)
            else:
                assert x == y, f.name
    assert again[0].ego_F6.dtype == np.float64


def test_plans_survive_their_file(tmp_path):
    plans = {"own": Plans.fake(3), "told faster": Plans.fake(2)}
    save_plans(tmp_path / "p.npz", plans)
    again = load_plans(tmp_path / "p.npz")
    assert list(again) == list(plans)
    np.testing.assert_array_equal(again["own"].points_NT2, plans["own"].points_NT2)


def test_a_bad_file_is_named(tmp_path):
    (tmp_path / "p.npz").write_bytes(b"no")
    with pytest.raises(InputError, match=r"p\.npz: cannot be read"):
        load_plans(tmp_path / "p.npz")
    save_rollouts(tmp_path / "r.npz", [])
    with pytest.raises(InputError, match=r"schema 'senna2\.rollouts/1', expected 'senna2\.plans/1'"):
        load_plans(tmp_path / "r.npz")
