"""Intervals against scipy, closed forms and hand-made cases."""

import numpy as np
import pytest
from scipy.stats import binomtest

from senna2.evaluate.stats import (
    Frames,
    Sums,
    bootstrap,
    clip_weights,
    clopper_pearson,
    interval,
    measure,
    paired_difference,
)
from senna2.types import InputError


def rate(values, seeds=(0,)):
    """One row of outcomes a seed → the share over clips."""
    v = np.atleast_2d(np.asarray(values, float))
    counts = np.stack([v, np.where(np.isnan(v), np.nan, 1.0)], -1)
    return Sums(tuple(f"c{i}" for i in range(v.shape[1])), tuple(seeds), counts)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 40), (40, 40), (3, 17), (16, 17)])
def test_clopper_pearson_is_scipys(k, n):
    theirs = binomtest(k, n).proportion_ci(0.95, "exact")
    assert clopper_pearson(k, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_clopper_pearson_refuses_what_is_no_count():
    with pytest.raises(InputError, match="no count"):
        clopper_pearson(3, 2)


def test_counts_of_0_and_n_take_clopper_pearson_over_clips():
    assert interval(rate(np.zeros(12))) == pytest.approx(clopper_pearson(0, 12))
    assert interval(rate(np.ones(12))) == pytest.approx(clopper_pearson(12, 12))
    percent = Sums(*(getattr(rate(np.zeros(12)), f) for f in ("clips", "seeds", "counts_SCK")), scale=100.0)
    assert interval(percent)[1] == pytest.approx(100 * clopper_pearson(0, 12)[1])


def test_an_interval_does_not_jump_where_the_first_clips_count():
    """One clip of 480 in one training seed of three: the bootstrap's [0, .002] is narrower than that of none."""
    tops = []
    for events in range(8):
        values = np.zeros((3, 480))
        values[0, :events] = 1
        low, high = interval(rate(values, seeds=range(3)))
        assert low <= events / 3 / 480 <= high
        tops.append(high)
    assert tops[:5] == sorted(tops[:5])
    assert tops[0] == pytest.approx(clopper_pearson(0, 480)[1])
    assert tops[3] == pytest.approx(clopper_pearson(1, 480)[1])
    nearly = np.ones(480)
    nearly[:2] = 0
    assert interval(rate(nearly)) == pytest.approx(clopper_pearson(478, 480))


def test_bootstrap_of_a_share_is_near_the_normal_interval():
    values = np.r_[np.ones(60), np.zeros(140)]
    low, high = interval(rate(values))
    half = 1.96 * np.sqrt(0.3 * 0.7 / 200)
    assert low == pytest.approx(0.3 - half, abs=0.012)
    assert high == pytest.approx(0.3 + half, abs=0.012)


def test_seeds_are_averaged_per_clip_and_printed_each():
    value = measure(rate([[1, 0, 0, 0], [1, 1, np.nan, 0]], seeds=(3, 7)), 4)
    assert value.value == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert value.per_seed == pytest.approx([0.25, 2 / 3])


def test_repeating_a_seed_narrows_nothing():
    values = np.array([1, 0, 0, 1, 0, 0, 0, 1.0])
    assert interval(rate(values)) == interval(rate([values] * 5, seeds=range(5)))


def test_intervals_repeat_and_one_clip_has_none():
    values = np.random.default_rng(1).uniform(size=30)
    assert bootstrap(rate(values)) == bootstrap(rate(values))
    assert bootstrap(rate([0.5])) is None
    assert clip_weights(7).sum(1).tolist() == [7.0] * len(clip_weights(7))


def test_weighted_median_is_numpys_on_repeated_values():
    rng = np.random.default_rng(0)
    values, clip = rng.normal(size=25), rng.integers(0, 5, 25)
    units = Frames(tuple("abcde"), (0,), values, clip, np.zeros(25, int))
    weights = rng.integers(0, 4, (20, 5)).astype(float)
    weights[0] = 1
    for w, got in zip(weights, units.at(weights), strict=True):
        assert got == pytest.approx(np.median(np.repeat(values, w[clip].astype(int))))


def test_paired_difference_is_on_common_clips():
    a, b = rate([1, 1, 0, 0]), rate([0, 1, 0, 0])
    a_on_more = Sums((*a.clips, "only a"), (0,), np.concatenate([a.counts_SCK, [[[1.0, 1.0]]]], 1))
    got = paired_difference(measure(a_on_more, 5), measure(b, 4))
    assert got["difference"] == pytest.approx(0.25)
    assert got["relative"] == pytest.approx(1.0)
    assert got["paired_over"] == 4
    low, high = got["ci95"]
    assert low <= 0 <= high  # one clip of four: a tie


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=10, size=40)
    a, b = rate(hard + 1), rate(hard)
    low, high = paired_difference(measure(a, 40), measure(b, 40))["ci95"]
    assert low == pytest.approx(1.0)
    assert high == pytest.approx(1.0)


@pytest.mark.parametrize(("differing", "tie"), [(5, True), (6, False)])
def test_a_difference_on_a_few_clips_is_a_tie(differing, tie):
    """As the exact sign test has it: five of five are chance in one of sixteen, six of six in one of thirty-two."""
    assert (binomtest(differing, differing).pvalue > 0.05) == tie
    a, b = np.zeros(200), np.zeros(200)
    a[:differing] = 1
    low, high = paired_difference(measure(rate(a), 200), measure(rate(b), 200))["ci95"]
    assert (low <= 0 <= high) == tie
    assert bootstrap(rate(a - b))[0] > 0  # what draws of clips alone would say
    metres = [Sums(u.clips, u.seeds, u.counts_SCK, is_share=False) for u in (rate(a), rate(b))]
    assert paired_difference(*(measure(u, 200) for u in metres))["ci95"][0] > 0


def test_nothing_to_compare():
    none = measure(rate([np.nan, np.nan]), 0)
    assert none.value is None
    assert none.ci95 is None
    assert paired_difference(none, none)["difference"] is None
