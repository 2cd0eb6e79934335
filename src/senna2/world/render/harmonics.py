"""Numba kernels of view-dependent colour for the differentiable renderer: spherical harmonics, degree 0…3.

Basis and signs of the 3DGS code base. colour = max(0, ½ + Σₖ Yₖ(direction)·shₖ), direction = (mean - eye)/|mean - eye|.
"""

from __future__ import annotations

import numpy as np

from senna2.compiled import njit

_C0, _C1 = 0.28209479177387814, 0.4886025119029199
_C2, _C20, _C22 = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
_C3, _C31, _C32 = 0.5900435899266435, 2.890611442640554, 0.4570457994644658
_C33, _C34 = 0.3731763325901154, 1.445305721320277


@njit(nogil=True)
def _basis(x, y, z, out_K):
    """Yₖ of a unit direction."""
    k = out_K.size
    out_K[0] = _C0
    if k > 1:
        out_K[1], out_K[2], out_K[3] = -_C1 * y, _C1 * z, -_C1 * x
    if k > 4:
        xx, yy, zz = x * x, y * y, z * z
        out_K[4], out_K[5], out_K[7] = _C2 * x * y, -_C2 * y * z, -_C2 * x * z
        out_K[6], out_K[8] = _C20 * (2 * zz - xx - yy), _C22 * (xx - yy)
        if k > 9:
            out_K[9], out_K[15] = -_C3 * y * (3 * xx - yy), -_C3 * x * (xx - 3 * yy)
            out_K[10], out_K[14] = _C31 * x * y * z, _C34 * z * (xx - yy)
            out_K[11], out_K[13] = -_C32 * y * (4 * zz - xx - yy), -_C32 * x * (4 * zz - xx - yy)
            out_K[12] = _C33 * z * (2 * zz - 3 * xx - 3 * yy)


@njit(nogil=True)
def _basis_slopes(x, y, z, out_K3):
    """∂Yₖ/∂(x, y, z) of the polynomials of `_basis`; only their part across the direction has a meaning."""
    k = out_K3.shape[0]
    out_K3[:] = 0.0
    if k > 1:
        out_K3[1, 1], out_K3[2, 2], out_K3[3, 0] = -_C1, _C1, -_C1
    if k > 4:
        out_K3[4, 0], out_K3[4, 1] = _C2 * y, _C2 * x
        out_K3[5, 1], out_K3[5, 2] = -_C2 * z, -_C2 * y
        out_K3[6, 0], out_K3[6, 1], out_K3[6, 2] = -2 * _C20 * x, -2 * _C20 * y, 4 * _C20 * z
        out_K3[7, 0], out_K3[7, 2] = -_C2 * z, -_C2 * x
        out_K3[8, 0], out_K3[8, 1] = 2 * _C22 * x, -2 * _C22 * y
    if k > 9:
        xx, yy, zz = x * x, y * y, z * z
        out_K3[9, 0], out_K3[9, 1] = -6 * _C3 * x * y, -3 * _C3 * (xx - yy)
        out_K3[10, 0], out_K3[10, 1], out_K3[10, 2] = _C31 * y * z, _C31 * x * z, _C31 * x * y
        out_K3[11, 0], out_K3[11, 2] = 2 * _C32 * x * y, -8 * _C32 * y * z
        out_K3[11, 1] = -_C32 * (4 * zz - xx - 3 * yy)
        out_K3[12, 0], out_K3[12, 1] = -6 * _C33 * x * z, -6 * _C33 * y * z
        out_K3[12, 2] = _C33 * (6 * zz - 3 * xx - 3 * yy)
        out_K3[13, 1], out_K3[13, 2] = 2 * _C32 * x * y, -8 * _C32 * x * z
        out_K3[13, 0] = -_C32 * (4 * zz - 3 * xx - yy)
        out_K3[14, 0], out_K3[14, 1], out_K3[14, 2] = 2 * _C34 * x * z, -2 * _C34 * y * z, _C34 * (xx - yy)
        out_K3[15, 0], out_K3[15, 1] = -3 * _C3 * (xx - yy), 6 * _C3 * x * y


@njit(nogil=True)
def _direction(mean_3, view):
    """Unit vector from the eye, and the distance."""
    x, y, z = np.float64(mean_3[0]) - view[0, 3], np.float64(mean_3[1]) - view[1, 3], np.float64(mean_3[2]) - view[2, 3]
    distance = np.sqrt(x * x + y * y + z * z)
    return x / distance, y / distance, z / distance, distance


@njit(nogil=True)
def shade(means_N3, sh_NK3, view, source_S, splats_SR):
    """Write the colours seen from the eye into columns 7…9 of the splats."""
    k = sh_NK3.shape[1]
    basis = np.empty(k)
    basis[0] = _C0
    for s in range(source_S.size):
        i = source_S[s]
        if k > 1:
            x, y, z, _ = _direction(means_N3[i], view)
            _basis(x, y, z, basis)
        for c in range(3):
            colour = 0.5
            for j in range(k):
                colour += basis[j] * sh_NK3[i, j, c]
            splats_SR[s, 7 + c] = max(colour, 0.0)


@njit(nogil=True)
def shade_backward(means_N3, sh_NK3, view, source_S, splats_SR, in_SG, d_means_N3, d_sh_NK3):
    """∂shₖ = Yₖ·∂colour, ∂direction = Σₖ ∇Yₖ(shₖ·∂colour), ∂mean = its part across the direction, over the distance.

    ∂colour stands in columns 6…8 of in_SG; it is 0 where the colour was clamped.
    """
    k = sh_NK3.shape[1]
    basis, slopes, d_colour = np.empty(k), np.empty((k, 3)), np.empty(3)
    basis[0] = _C0
    for s in range(source_S.size):
        i = source_S[s]
        for c in range(3):
            d_colour[c] = in_SG[s, 6 + c] if splats_SR[s, 7 + c] > 0 else 0.0
        if k > 1:
            x, y, z, distance = _direction(means_N3[i], view)
            _basis(x, y, z, basis)
            _basis_slopes(x, y, z, slopes)
            dx = dy = dz = 0.0
            for j in range(1, k):
                push = 0.0
                for c in range(3):
                    push += sh_NK3[i, j, c] * d_colour[c]
                dx += slopes[j, 0] * push
                dy += slopes[j, 1] * push
                dz += slopes[j, 2] * push
            along = dx * x + dy * y + dz * z
            d_means_N3[i, 0] += (dx - along * x) / distance
            d_means_N3[i, 1] += (dy - along * y) / distance
            d_means_N3[i, 2] += (dz - along * z) / distance
        for j in range(k):
            for c in range(3):
                d_sh_NK3[i, j, c] += basis[j] * d_colour[c]
