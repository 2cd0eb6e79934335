"""Suites come back from disk as they were, and seeds measured apart join to what they are when measured together."""

import dataclasses

import numpy as np
import pytest

from senna2.evaluate.closed_loop import closed_loop
from senna2.evaluate.consistency import consistency
from senna2.evaluate.control import control
from senna2.evaluate.kept import joined, load_suites, save_suites, untrained
from senna2.evaluate.open_loop import open_loop
from senna2.evaluate.stats import ANY_SEED, paired_difference
from senna2.recipes.rows import load_row
from senna2.types import InputError, Plans, Rig, Rollout, Samples, Speed, VehicleShape


def _samples(n: int = 24) -> Samples:
    samples = Samples.fake(n, Rig.fake())
    return dataclasses.replace(
        samples, clips=("a", "b", "c"), families=("f",) * 3, clip_N=np.arange(n) % 3,
        counterfactual_N=np.zeros(n, bool), speed_N=(np.arange(n) % 4).astype(np.int8),
        direction_N=(np.arange(n) % 5).astype(np.int8),
    )  # fmt: skip


def _plans(samples: Samples, seed: int, *, stop: bool = True) -> Plans:
    rng = np.random.default_rng(seed)
    n = len(samples)
    v = rng.uniform(0 if stop else 4, 12, n)
    x = v[:, None] * 0.1 * np.arange(1, 31)
    return dataclasses.replace(
        Plans.fake(n), points_NT2=np.stack([x, 0.02 * rng.normal(size=(n, 1)) * x], -1).astype(np.float32),
        vlm_speed_N=rng.integers(0, 4 if stop else 3, n).astype(np.int8),
        vlm_direction_N=rng.integers(0, 5, n).astype(np.int8),
    )  # fmt: skip


def _rollouts(seed: int) -> list[Rollout]:
    return [dataclasses.replace(Rollout.fake(), clip=c, seed=seed, policy="p") for c in ("a", "b")]


def _suites(seeds):
    samples = _samples()
    plans = {s: _plans(samples, s) for s in seeds}
    forced = {v: {s: _plans(samples, 10 * s + int(v), stop=False) for s in seeds} for v in Speed if v >= 0}
    return {
        "consistency": consistency(samples, plans), "open_loop": open_loop(samples, plans, VehicleShape()),
        "control": control(samples, forced), "closed_loop": closed_loop([r for s in seeds for r in _rollouts(s)]),
    }  # fmt: skip


def _same(one, other, *, notes: bool = True) -> None:
    assert {k: list(v) for k, v in one.items()} == {k: list(v) for k, v in other.items()}
    for suite, metrics in one.items():
        for name, value in metrics.items():
            got, wanted = other[suite][name].to_json(), value.to_json()
            for one_of in (got, wanted):
                one_of.pop("note", None) if not notes else None
            assert got == wanted, f"{suite}.{name}"


def test_seeds_measured_apart_join_to_those_measured_together():
    together = _suites((0, 1, 2))
    assert together["consistency"]["avg"].value is not None
    _same(together, joined([_suites((s,)) for s in (0, 1, 2)]))
    _same(_suites((1,)), joined([_suites((1,))]))


def test_a_class_that_one_seed_has_counts_for_it_alone():
    """In one seed's plans and decisions nobody stops: together that seed has no value of its own, the others have."""
    samples = _samples()
    plans = {0: _plans(samples, 0, stop=False), 1: _plans(samples, 1)}
    together = {"consistency": consistency(samples, plans)}
    assert together["consistency"]["stop"].per_seed[0] is None
    assert together["consistency"]["stop"].per_seed[1] is not None
    apart = joined([{"consistency": consistency(samples, {s: p})} for s, p in plans.items()])
    _same(together, apart, notes=False)  # a note may say that one seed lacks a class


def test_what_no_seed_changes_goes_with_every_seed():
    both, second, baseline = joined([_suites((0,)), _suites((1,))]), joined([_suites((1,))]), untrained(_suites((0,)))
    assert both["consistency"]["ceiling"].units.seeds == (ANY_SEED,) == second["consistency"]["ceiling"].units.seeds
    _same(baseline, _suites((0,)))
    for suite, metric in (("open_loop", "fde_m"), ("control", "ratio_keep")):  # sums, and a median over frames
        mine, theirs = both[suite][metric], baseline[suite][metric]
        assert paired_difference(mine, theirs)["difference"] == pytest.approx(mine.value - theirs.value)
        assert paired_difference(mine, second[suite][metric])["difference"] == pytest.approx(0)  # of seed 1 alone


def test_suites_come_back_as_they_were(tmp_path):
    suites = _suites((0, 2))
    save_suites(tmp_path / "row.npz", {"p": suites}, key="k")
    back, more = load_suites(tmp_path / "row.npz")
    assert more == {"key": "k"}
    _same(suites, back["p"])
    # and can be joined with another seed
    _same(_suites((0, 2, 1)), joined([back["p"], _suites((1,))]))
    assert (tmp_path / "row.npz").stat().st_size < 30_000


def test_a_seed_counts_once():
    with pytest.raises(InputError, match="twice"):
        joined([_suites((0,)), _suites((0,))])


def test_a_file_of_another_kind_is_named(tmp_path):
    for name, content in (("text.npz", b"no"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_suites(tmp_path / name)
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(InputError, match=r"other\.npz"):
        load_suites(tmp_path / "other.npz")
    save_suites(tmp_path / "suites.npz", {})
    with pytest.raises(InputError, match=r"suites\.npz: .* no row of a study: 'name' is missing"):
        load_row(tmp_path / "suites.npz")
