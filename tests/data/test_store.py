"""Samples on disk: exact round trips, and nothing half-written or damaged passes for whole."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from senna2.data.store import SampleStore, write_part
from senna2.types import InputError, Rig, Samples


def _part(n: int, name: str, seed: int = 0) -> Samples:
    words = tuple(f"{name} {i} é" for i in range(n))
    return dataclasses.replace(Samples.fake(n, seed=seed), instruction_N=words, clips=(name,), families=("cut_in",))


@pytest.fixture
def folder(tmp_path):
    for seed, (name, n) in enumerate({"b": 5, "a": 3}.items()):
        write_part(tmp_path, name, _part(n, name, seed))
    return tmp_path


def test_round_trip_over_parts(folder):
    store = SampleStore(folder)
    wanted = Samples.concatenate([_part(3, "a", 1), _part(5, "b", 0)])
    found = store.take(np.arange(8)).validate()
    for f in dataclasses.fields(Samples):
        left, right = getattr(wanted, f.name), getattr(found, f.name)
        if f.name == "images":
            np.testing.assert_array_equal(left["front"], right["front"])
        elif f.name == "index_N":
            assert right.tolist() == list(range(8))  # numbered over the whole store
        elif isinstance(left, np.ndarray):
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right


def test_any_order_may_be_taken(folder):
    store = SampleStore(folder)
    index = np.array([6, 0, 6, 3])
    taken, whole = store.take(index), store.take(np.arange(8))
    assert taken.instruction_N == tuple(whole.instruction_N[i] for i in index)
    np.testing.assert_array_equal(taken.images["front"], whole.images["front"][index])
    np.testing.assert_array_equal(taken.index_N, index)


def test_images_stay_on_disk_until_taken(folder):
    store = SampleStore(folder)
    assert store.states.images == {}
    before = store.take(np.array([6])).images["front"]
    path = folder / "b" / "images.front.npy"
    np.save(path, 255 - np.load(path))
    np.testing.assert_array_equal(store.take(np.array([6])).images["front"], 255 - before)


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="open files cannot be counted here")
def test_no_file_stays_open(folder):
    """A store of 800 clips and four cameras has 3200; a process may often have 1024 open."""
    before = len(os.listdir("/dev/fd"))
    store = SampleStore(folder)
    store.take(np.arange(8))
    assert len(os.listdir("/dev/fd")) == before


def test_images_cut_short_after_opening_are_named(folder):
    store = SampleStore(folder)
    path = folder / "a" / "images.front.npy"
    os.truncate(path, path.stat().st_size - 10)
    with pytest.raises(InputError, match=r"images.front.npy: ends before sample 2; delete its folder"):
        store.take(np.array([2]))


def test_images_can_be_left_out_and_parts_chosen(folder):
    store = SampleStore(folder, images=False, parts=["b"])
    assert len(store) == 5
    assert store.take(np.arange(2)).images == {}


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    with pytest.raises(InputError, match="holds no samples; make them"):
        SampleStore(tmp_path)
    with pytest.raises(InputError, match="holds no samples"):
        SampleStore(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["future_NT3", "boxes_NA6", "images.front"])
def test_a_truncated_array_is_named(folder, name):
    path = folder / "a" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"{name}\.npy: cannot be read.*delete"):
        SampleStore(folder)


def test_an_empty_or_missing_array_is_named(folder):
    (folder / "a" / "speed_N.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"speed_N\.npy: cannot be read"):
        SampleStore(folder)
    (folder / "a" / "speed_N.npy").unlink()
    with pytest.raises(InputError, match=r"speed_N\.npy: cannot be read"):
        SampleStore(folder)


def test_pickled_arrays_are_never_loaded(folder):
    np.save(folder / "a" / "speed_N.npy", np.array([{}, {}, {}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"speed_N\.npy: cannot be read"):
        SampleStore(folder)


@pytest.mark.parametrize(
    ("name", "array", "what"),
    [
        ("speed_N", np.zeros(7, np.int8), "holds 7 samples, part.json says 3"),
        ("speed_N", np.int8(3), "holds 0 samples"),
        ("future_NT3", np.zeros((3, 4, 3), np.float32), r"a: Samples\.future_NT3: shape"),
        ("motion_N4", np.full((3, 4), np.nan), r"a: Samples\.motion_N4: must be finite"),
        ("images.front", np.zeros((3, 16, 32, 3), np.uint8), r"images\.front\.npy: is not"),
        ("images.front", np.zeros((3, 1, 16, 16, 3), np.uint8), "samples of one rig"),
    ],
)
def test_a_wrong_array_is_named(folder, name, array, what):
    np.save(folder / "a" / f"{name}.npy", array)
    with pytest.raises(InputError, match=what):
        SampleStore(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"schema": "senna2.samples/0"}, "schema 'senna2.samples/0', expected 'senna2.samples/1'"),
        ({"n": None}, "field 'n' is missing"),
        ({"clips": None}, "field 'clips' is missing"),
        ({"instruction_N": ["x"]}, "instruction_N"),
    ],
)
def test_a_wrong_part_json_is_named(folder, change, what):
    path = folder / "a" / "part.json"
    meta = json.loads(path.read_text())
    meta.update(change)
    path.write_text(json.dumps({k: v for k, v in meta.items() if v is not None}))
    with pytest.raises(InputError, match=what):
        SampleStore(folder)
    path.write_text("[]")
    with pytest.raises(InputError, match="schema 'None'"):
        SampleStore(folder)


def test_parts_of_different_rigs_do_not_mix(folder):
    two = dataclasses.replace(_part(2, "c"), images={})
    write_part(folder, "c", two)
    with pytest.raises(InputError, match="samples of one rig"):
        SampleStore(folder)
    assert Rig.fake().names == ("front",)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_part_and_nothing_else(folder, monkeypatch, error):
    real, written = np.save, []

    def save(path, array):
        if len(written) == 5:
            raise error
        written.append(path)
        real(path, array)

    monkeypatch.setattr(np, "save", save)
    kind = InputError if isinstance(error, OSError) else KeyboardInterrupt
    for name in ("a", "new"):
        written.clear()
        with pytest.raises(kind, match="No space left" if kind is InputError else None):
            write_part(folder, name, _part(4, name))
    assert sorted(p.name for p in folder.iterdir()) == ["a", "b"]
    assert len(SampleStore(folder)) == 8


def test_a_part_is_replaced_and_a_dead_process_leftover_does_not_matter(folder):
    (folder / f".a.{os.getpid()}").mkdir()
    (folder / ".zombie.1").mkdir()
    (folder / ".zombie.1" / "part.json").write_text("{}")
    write_part(folder, "a", _part(1, "a"))
    assert len(SampleStore(folder)) == 6
    assert sorted(p.name for p in folder.iterdir()) == [".zombie.1", "a", "b"]
