"""3DGS .ply files: what goes in comes out, and what is broken is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from senna2.types import InputError
from senna2.world.gaussians import GaussianCloud
from senna2.world.ply import load_ply, save_ply

FIELDS = ("means_N3", "scales_N3", "quats_N4", "opacities_N", "sh_NK3")


def cloud(k: int = 16, n: int = 5000, seed: int = 0) -> GaussianCloud:
    """All magnitudes a scene can hold, the extreme ones first."""
    rng = np.random.default_rng(seed)
    base = GaussianCloud.fake(n, seed)
    scales = np.exp(rng.uniform(-12, 6, (n, 3))).astype(np.float32)
    opacities = np.concatenate([rng.uniform(0, 1, n // 2), 10 ** rng.uniform(-6, 0, n - n // 2)]).astype(np.float32)
    opacities[:4] = (1, np.nextafter(np.float32(1), np.float32(0)), 1e-12, 0.99)
    sh = rng.normal(0, 0.5, (n, k, 3)).astype(np.float32)
    return dataclasses.replace(base, scales_N3=scales, opacities_N=np.maximum(opacities, np.float32(1e-12)), sh_NK3=sh)


@pytest.mark.parametrize("k", [1, 4, 9, 16])
def test_round_trip_loses_no_bit(tmp_path: Path, k: int) -> None:
    want = cloud(k)
    save_ply(tmp_path / "a.ply", want)
    got = load_ply(tmp_path / "a.ply")
    for name in FIELDS:
        assert getattr(got, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    save_ply(tmp_path / "b.ply", got)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_all_magnitudes_survive(tmp_path: Path) -> None:
    """From denormal opacities to scales of light years, and quaternions as far from unit as is still valid."""
    rng = np.random.default_rng(0)
    n = 20_000
    base = GaussianCloud.fake(n)
    opacities = np.exp(-rng.uniform(0, 100, n)).astype(np.float32)
    opacities[:3] = (1, np.nextafter(np.float32(1), np.float32(0)), np.nextafter(np.float32(0.5), np.float32(1)))
    scales = np.exp(rng.uniform(-87, 88, (n, 3))).astype(np.float32)
    quats = (base.quats_N4 * rng.uniform(0.9991, 1.0009, (n, 1))).astype(np.float32)
    want = dataclasses.replace(base, opacities_N=opacities, scales_N3=scales, quats_N4=quats)
    save_ply(tmp_path / "a.ply", want)
    got = load_ply(tmp_path / "a.ply")
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


def rewrite(path: Path, columns: dict[str, np.ndarray | float]) -> None:
    """Change columns of one of our files, as another program would."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1] for line in header.decode().splitlines()[3:]]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names)).copy()
    for name, value in columns.items():
        table[:, names.index(name)] = value
    write(path, header.decode() + "end_header\n", table.tobytes())


def test_other_programs_see_plain_numbers_and_may_change_them(tmp_path: Path) -> None:
    """What we keep in the normals is zero to them, and harms nothing once they have written other values or normals."""
    want, path = cloud(1), tmp_path / "a.ply"
    save_ply(path, want)
    body = np.frombuffer(path.read_bytes().split(b"end_header\n", 1)[1], "<f4").reshape(len(want), -1)
    assert 0 < np.abs(body[:, 3:6]).max() < 1e-6
    rewrite(path, {"nx": 0, "ny": 0, "nz": 0})  # a file of the usual kind
    plain = load_ply(path)
    np.testing.assert_allclose(plain.scales_N3, want.scales_N3, rtol=1e-6)
    np.testing.assert_allclose(plain.opacities_N, want.opacities_N, rtol=2e-6)
    assert (plain.scales_N3 != want.scales_N3).any()  # so the test above this one tests something
    for normals in ({"nx": 0.6, "ny": 0, "nz": 0.8}, {"nx": np.nan, "ny": 1e-9, "nz": 0}):
        rewrite(path, normals)
        np.testing.assert_array_equal(load_ply(path).scales_N3, plain.scales_N3)
        np.testing.assert_array_equal(load_ply(path).opacities_N, plain.opacities_N)
    save_ply(path, want)
    rewrite(path, {"opacity": -3.0, "scale_1": 0.5})
    np.testing.assert_allclose(load_ply(path).opacities_N, 1 / (1 + np.exp(3.0)), rtol=2e-5)
    np.testing.assert_allclose(load_ply(path).scales_N3[:, 1], np.exp(0.5), rtol=2e-5)
    rewrite(path, {"opacity": 40.0})  # opaque stays opaque: an opacity above 1 would not be valid
    assert load_ply(path).opacities_N.max() <= 1


def test_layout_is_the_one_of_3dgs(tmp_path: Path) -> None:
    """Decoded here by hand: order of properties, channel-major f_rest, logit, logarithm."""
    want = cloud(4, 7)
    save_ply(tmp_path / "a.ply", want)
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 7"]
    names = [line.removeprefix("property float ") for line in lines[3:]]
    rest = [f"f_rest_{i}" for i in range(9)]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity",
                     "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip
    row = dict(zip(names, np.frombuffer(body, "<f4").reshape(7, -1)[5].tolist(), strict=True))
    assert row["f_rest_3"] == want.sh_NK3[5, 1, 1]  # first coefficient of green follows the three of red
    assert row["f_rest_8"] == want.sh_NK3[5, 3, 2]
    assert row["scale_1"] == pytest.approx(np.log(want.scales_N3[5, 1]), rel=1e-6)
    assert 1 / (1 + np.exp(-row["opacity"])) == pytest.approx(want.opacities_N[5], rel=1e-5)
    assert row["rot_0"] == want.quats_N4[5, 0]


def write(path: Path, header: str, body: bytes) -> Path:
    path.write_bytes(header.encode() + body)
    return path


def test_foreign_files_load(tmp_path: Path) -> None:
    """Other order, other number types, further properties and elements, a comment, quaternions that are not unit."""
    names = [
        "rot_0",
        "rot_1",
        "rot_2",
        "rot_3",
        "x",
        "y",
        "z",
        "opacity",
        "label",
        "scale_0",
        "scale_1",
        "scale_2",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
    ]
    layout = np.dtype([(n, "u1" if n == "label" else "<f8") for n in names])
    table = np.zeros(2, layout)
    table["rot_0"], table["rot_3"], table["x"], table["label"] = 3, 4, (1.5, 2.5), 7
    properties = "".join(f"property {'uchar' if n == 'label' else 'double'} {n}\n" for n in names)
    faces = "element face 0\nproperty list uchar int vertex_indices\n"
    header = f"ply\nformat binary_little_endian 1.0\ncomment by hand\nelement vertex 2\n{properties}{faces}end_header\n"
    got = load_ply(write(tmp_path / "f.ply", header, table.tobytes()))
    np.testing.assert_allclose(got.quats_N4, [[0.6, 0, 0, 0.8]] * 2, rtol=1e-6)
    np.testing.assert_allclose(got.means_N3[:, 0], [1.5, 2.5])
    np.testing.assert_allclose(got.opacities_N, 0.5)
    np.testing.assert_allclose(got.scales_N3, 1)
    assert got.sh_NK3.shape == (2, 1, 3)


def test_broken_files_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.ply"
    save_ply(good, cloud(4, 20))
    data = good.read_bytes()
    cases = {
        "truncated: element vertex 20": data[:-1],
        "no end_header": data[:60],
        "does not begin with 'ply'": b"PK\x03\x04" + data,
        "format ascii 1.0; only binary_little_endian": data.replace(b"binary_little_endian", b"ascii"),
        "property opacity is missing": data.replace(b"float opacity", b"float opacita"),
        "property scale_2 is missing": data.replace(b"float scale_2", b"float scale_9"),
        "has 8 properties f_rest": data.replace(b"float f_rest_3\n", b"float g_rest_3\n"),
        "first element must be 'element vertex": data.replace(b"vertex 20", b"vertex -2"),
        "must be plain numbers": data.replace(b"property float x", b"property floaf x"),
        "named twice": data.replace(b"property float y", b"property float x"),
        "names no element vertex": b"ply\nformat binary_little_endian 1.0\nend_header\n",
    }
    for message, content in cases.items():
        (tmp_path / "bad.ply").write_bytes(content)
        with pytest.raises(InputError, match=f"bad.ply.*{message}"):
            load_ply(tmp_path / "bad.ply")
    (tmp_path / "big.ply").write_bytes(data.replace(b"little", b"big"))
    with pytest.raises(InputError, match=r"big.ply: format binary_big_endian 1.0; only binary_little_endian"):
        load_ply(tmp_path / "big.ply")
    with pytest.raises(InputError, match="no such file"):
        load_ply(tmp_path / "absent.ply")


def test_headers_of_other_writers(tmp_path: Path) -> None:
    """Carriage returns, comments and obj_info, type names with their sizes; no normals; any order, also of f_rest."""
    want = cloud(4, 9)
    path = tmp_path / "a.ply"
    save_ply(path, want)
    header, body = path.read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1] for line in header.decode().splitlines()[3:]]
    order = np.random.default_rng(0).permutation([i for i, name in enumerate(names) if name not in ("nx", "ny", "nz")])
    table = np.frombuffer(body, "<f4").reshape(9, -1)[:, order]
    lines = ["ply", "format binary_little_endian 1.0", "comment made by hand", "obj_info nothing", "element vertex 9"]
    lines += [f"property float32 {names[i]}" for i in order] + ["end_header", ""]
    got = load_ply(write(path, "\r\n".join(lines), np.ascontiguousarray(table).tobytes()))
    for name in ("means_N3", "quats_N4", "sh_NK3"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_allclose(got.scales_N3, want.scales_N3, rtol=1e-6)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("y", np.nan, "property y holds NaN"),
        ("opacity", np.inf, "opacity holds NaN"),
        ("scale_1", 200.0, "logarithms"),
        ("rot", 0.0, "gaussian 3 are all zero"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, column: str, value: float, message: str) -> None:
    save_ply(tmp_path / "a.ply", cloud(1, 6))
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1] for line in header.decode().splitlines()[3:]]
    table = np.frombuffer(body, "<f4").reshape(6, -1).copy()
    for i, name in enumerate(names):
        if name.startswith(column):
            table[3, i] = value
    write(tmp_path / "a.ply", header.decode() + "end_header\n", table.tobytes())
    with pytest.raises(InputError, match=f"a.ply.*{message}"):
        load_ply(tmp_path / "a.ply")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.ply"
    save_ply(path, cloud(1, 6))
    before = path.read_bytes()
    bad = cloud(1, 6)
    with pytest.raises(InputError, match="scales_N3"):
        save_ply(path, dataclasses.replace(bad, scales_N3=-bad.scales_N3))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_ply(path, cloud(1, 9))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]
