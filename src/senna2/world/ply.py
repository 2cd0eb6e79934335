"""Clouds as binary little-endian PLY in the layout of the original 3DGS code, which viewers and trainers share.

On disk the numbers are before their activations: logit of the opacity, logarithm of the scales, quaternions of any
length; colour coefficients as f_dc (degree 0) and f_rest (channel-major). What goes out comes in again bit by bit. A
float32 logit or logarithm alone would not do: most float32 values have none that leads back to them (relative error up
to 1e-6). So the few units in the last place that are missing stand in nx, ny, nz [ours], where 3DGS files hold zeros
that nobody reads: as multiples of 2⁻⁴⁰, which any viewer takes for zero.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from senna2.files import written_whole
from senna2.types import Array, InputError
from senna2.world.gaussians import GaussianCloud

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4", "float": "<f4",
    "double": "<f8", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4",
    "float32": "<f4", "float64": "<f8",
}  # fmt: skip
_HEADER_MAX = 1 << 16  # bytes; a 3DGS header has 62 properties in about 1.5 kB
_OPAQUE_LOGIT = 20.0  # rounds to opacity 1 in float32; the true logit of 1 is infinite
_FAINT_LOGIT = -100.0  # still positive in float32
_UNIT = 2.0**-40  # in which nx, ny, nz count units in the last place
_ULPS_MAX = 127
_OPACITY_SHIFT = 256  # nx counts the first scale's plus so many times the opacity's
_UNIT_LENGTH = 1.01e-3  # what `GaussianCloud.validate` accepts as the length of a unit quaternion is left as it is


def save_ply(path: Path | str, cloud: GaussianCloud) -> None:
    """Write the cloud, or leave what was there untouched. Raises `InputError` for a cloud that is not valid."""
    path = Path(path)
    cloud.validate(f"{path}")
    n, k = cloud.sh_NK3.shape[:2]
    rest = cloud.sh_NK3[:, 1:].transpose(0, 2, 1).reshape(n, 3 * (k - 1))  # channel-major
    opacities = cloud.opacities_N.astype(np.float64)
    with np.errstate(divide="ignore"):
        logits = np.minimum(np.log(opacities) - np.log1p(-opacities), _OPAQUE_LOGIT).astype("<f4")
    logarithms = np.log(cloud.scales_N3.astype(np.float64)).astype("<f4")
    missing = _clipped(_ulps(cloud.scales_N3) - _ulps(_scales(logarithms)))
    missing[:, 0] += _OPACITY_SHIFT * _clipped(_ulps(cloud.opacities_N) - _ulps(_opacities(logits)))
    columns = [cloud.means_N3, missing * _UNIT, cloud.sh_NK3[:, 0], rest, logits[:, None], logarithms, cloud.quats_N4]
    table = np.concatenate([c.astype("<f4") for c in columns], 1)
    properties = "".join(f"property float {name}\n" for name in _names(k))
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {n}\n{properties}end_header\n"

    with written_whole(path) as fresh, fresh.open("wb") as file:
        file.write(header.encode("ascii"))
        file.write(table.tobytes())


def load_ply(path: Path | str) -> GaussianCloud:
    """Read a 3DGS cloud of SH degree 0…3; properties in any order and further ones are fine.

    Raises `InputError` naming file and field for what is not such a file: wrong magic or format, a missing property,
    a truncated body, values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a 3DGS .ply")
    data = path.read_bytes()
    count, layout, start = _read_header(path, data)
    size = count * layout.itemsize
    if len(data) - start < size:
        raise InputError(
            f"{path}: truncated: element vertex {count} needs {size} bytes after the header, the file has "
            f"{len(data) - start}; write or download it again"
        )
    table = np.frombuffer(data, layout, count, start)
    present = layout.names or ()
    rest = sum(name.startswith("f_rest_") for name in present)
    if rest not in (0, 9, 24, 45):
        raise InputError(
            f"{path}: has {rest} properties f_rest_*; 0, 9, 24 or 45 make spherical harmonics of degree 0 to 3"
        )
    k = 1 + rest // 3

    def column(*names: str) -> Array:
        for name in names:
            if name not in present:
                raise InputError(f"{path}: property {name} is missing; export it in the standard 3DGS layout")
            if not np.isfinite(table[name]).all():
                raise InputError(
                    f"{path}: property {name} holds NaN or infinity; export the cloud without such gaussians"
                )
        return np.stack([table[name] for name in names], -1).astype(np.float64)

    means = column("x", "y", "z")
    sh = column(*(f"f_dc_{c}" for c in range(3)))[:, None]
    if k > 1:
        channels = column(*(f"f_rest_{i}" for i in range(rest))).reshape(count, 3, k - 1)
        sh = np.concatenate([sh, channels.transpose(0, 2, 1)], 1)
    opacities, scales = _opacities(column("opacity")[:, 0]), _scales(column("scale_0", "scale_1", "scale_2"))
    if not np.isfinite(scales).all():
        raise InputError(f"{path}: scale_0…scale_2 must be logarithms of metres; some are too large to be")
    if {"nx", "ny", "nz"} <= set(present):
        opacities, scales = _complete(opacities, scales, np.stack([table[n] for n in ("nx", "ny", "nz")], -1))
    quats = column("rot_0", "rot_1", "rot_2", "rot_3")
    norm = np.linalg.norm(quats, axis=1, keepdims=True)
    if (norm == 0).any():
        raise InputError(f"{path}: rot_0…rot_3 of gaussian {int(np.argmin(norm))} are all zero; give a rotation")
    quats = np.where(np.abs(norm - 1) < _UNIT_LENGTH, quats, quats / norm)
    with np.errstate(over="ignore"):
        arrays = [np.ascontiguousarray(a, np.float32) for a in (means, scales, quats, opacities, sh)]
    return GaussianCloud(*arrays).validate(f"{path}")


def _opacities(logits: Array) -> Array:
    x = np.clip(np.asarray(logits, np.float64), _FAINT_LOGIT, None)
    return (1 / (1 + np.exp(-x))).astype(np.float32)


def _scales(logarithms: Array) -> Array:
    """Infinite for what is too large for float32."""
    with np.errstate(over="ignore"):
        return np.exp(np.asarray(logarithms, np.float64)).astype(np.float32)


def _ulps(positive: Array) -> Array:
    """The bits of positive float32 as integers: neighbours differ by 1."""
    return np.ascontiguousarray(positive, np.float32).view(np.int32).astype(np.int64)


def _clipped(ulps: Array) -> Array:
    return np.clip(ulps, -_ULPS_MAX, _ULPS_MAX)


def _complete(opacities_N: Array, scales_N3: Array, normals_N3: Array) -> tuple[Array, Array]:
    """Add the units in the last place that nx, ny, nz count, if that is what they hold and not somebody's normals.

    If another program has since changed opacities or scales, this changes them by 2e-5 of themselves at most.
    """
    counts = normals_N3.astype(np.float64) / _UNIT
    limit = _ULPS_MAX * np.array([_OPACITY_SHIFT + 1, 1, 1])
    if not (np.isfinite(counts).all() and (counts == np.round(counts)).all() and (np.abs(counts) <= limit).all()):
        return opacities_N, scales_N3
    counts = counts.astype(np.int64)
    of_opacity = (counts[:, 0] + _OPACITY_SHIFT // 2) // _OPACITY_SHIFT
    counts[:, 0] -= _OPACITY_SHIFT * of_opacity
    one, largest = (int(np.float32(v).view(np.int32)) for v in (1, np.finfo(np.float32).max))
    opacities = np.clip(_ulps(opacities_N) + of_opacity, 1, one).astype(np.int32).view(np.float32)
    scales = np.clip(_ulps(scales_N3) + counts, 1, largest).astype(np.int32).view(np.float32)
    return opacities, scales


def _names(k: int) -> list[str]:
    return [
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
        *(f"f_rest_{i}" for i in range(3 * (k - 1))),
        *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    ]


def _read_header(path: Path, data: bytes) -> tuple[int, np.dtype, int]:
    """Number of vertices, their layout, and where they begin."""
    if not data.startswith((b"ply\n", b"ply\r\n")):
        raise InputError(f"{path}: does not begin with 'ply'; expected a 3DGS .ply file")
    end = data.find(b"end_header", 0, _HEADER_MAX)
    start = data.find(b"\n", end, end + 12) + 1
    if end < 0 or start == 0:
        raise InputError(f"{path}: header has no end_header; the file is truncated or not a PLY")
    count: int | None = None
    fields: list[tuple[str, str]] = []
    in_vertex = False
    for line in data[:end].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            if words[1:2] != ["binary_little_endian"]:
                raise InputError(f"{path}: {line.strip()}; only binary_little_endian is read, convert the file")
        elif words[0] == "element":
            in_vertex = words[1:2] == ["vertex"]
            if in_vertex and len(words) == 3 and words[2].isdigit():
                count = int(words[2])
            elif in_vertex or count is None:
                raise InputError(f"{path}: '{line.strip()}'; the first element must be 'element vertex <count>'")
        elif words[0] == "property" and in_vertex:
            if len(words) != 3 or words[1] not in _TYPES:
                raise InputError(f"{path}: '{line.strip()}'; vertex properties must be plain numbers")
            fields.append((words[2], _TYPES[words[1]]))
    if count is None:
        raise InputError(f"{path}: header names no element vertex")
    if len({name for name, _ in fields}) != len(fields):
        raise InputError(f"{path}: a vertex property is named twice")
    return count, np.dtype(fields), start
