"""Numba kernels of the differentiable renderer, first half: covariances, and the way back through the projection.

Float64 throughout: a conic is the inverse of a matrix that is nearly singular for a surfel seen edge-on.
Symbols: `render.backward`.
"""

from __future__ import annotations

import numpy as np

from senna2.compiled import njit
from senna2.world.render.project import GEOMETRY
from senna2.world.render.rules import EPS_2D


@njit(nogil=True, error_model="numpy")
def _rotation(quat_4):
    """|q| and the rows of R(q/|q|), float64."""
    w, x, y, z = np.float64(quat_4[0]), np.float64(quat_4[1]), np.float64(quat_4[2]), np.float64(quat_4[3])
    norm = np.sqrt(w * w + x * x + y * y + z * z)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    return (
        norm,
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@njit(nogil=True, error_model="numpy")
def _covariance(scales_3, r0, r1, r2):
    """Σ = R·diag(s²)·Rᵀ as xx, xy, xz, yy, yz, zz."""
    a, b, c = np.float64(scales_3[0]) ** 2, np.float64(scales_3[1]) ** 2, np.float64(scales_3[2]) ** 2
    return (
        r0[0] * r0[0] * a + r0[1] * r0[1] * b + r0[2] * r0[2] * c,
        r0[0] * r1[0] * a + r0[1] * r1[1] * b + r0[2] * r1[2] * c,
        r0[0] * r2[0] * a + r0[1] * r2[1] * b + r0[2] * r2[2] * c,
        r1[0] * r1[0] * a + r1[1] * r1[1] * b + r1[2] * r1[2] * c,
        r1[0] * r2[0] * a + r1[1] * r2[1] * b + r1[2] * r2[2] * c,
        r2[0] * r2[0] * a + r2[1] * r2[1] * b + r2[2] * r2[2] * c,
    )


@njit(nogil=True, error_model="numpy")
def geometry(means_N3, scales_N3, quats_N4, opacities_N):
    """geometry_NG of `project`."""
    n = means_N3.shape[0]
    out_NG = np.empty((n, GEOMETRY), np.float32)
    for i in range(n):
        g = out_NG[i]
        g[0], g[1], g[2] = means_N3[i, 0], means_N3[i, 1], means_N3[i, 2]
        _, r0, r1, r2 = _rotation(quats_N4[i])
        g[3], g[4], g[5], g[6], g[7], g[8] = _covariance(scales_N3[i], r0, r1, r2)
        opacity = np.float64(opacities_N[i])
        g[9] = opacity
        g[10] = 2 * np.log(255 * opacity) if opacity > 0 else -1.0
        g[11] = np.float64(max(abs(scales_N3[i, 0]), abs(scales_N3[i, 1]), abs(scales_N3[i, 2]))) ** 2
    return out_NG


@njit(nogil=True, error_model="numpy")
def project_backward(
    means_N3, scales_N3, quats_N4, source_S, view, camera, slope, in_SG,
    d_means_N3, d_scales_N3, d_quats_N4, d_opacities_N,
):  # fmt: skip
    """∂means, ∂scales, ∂quats, ∂opacities from ∂splats. All in float64.

    Forward: p = W·d with rows W₀ W₁ W₂ and d = mean - eye; h = x/z clamped to the slope limits, k = fx/z;
    Σ₂ = KΣKᵀ + 0.3·1 with rows of K a = k(W₀ - h·W₂) and, alike with y, b; conic M = Σ₂⁻¹; u = fx·x/z + cx.
    Backward, with G = [[∂A, ½∂B], [½∂B, ∂C]] the gradient by the symmetric M:
        ∂Σ₂ = -M·G·M,   ∂Σ = Kᵀ∂Σ₂K,   ∂K = 2·∂Σ₂·K·Σ,   ∂k = ∂a·a/k,   ∂h = -k·∂a·W₂ (0 where clamped),
        ∂(x/z) = fx·∂u + ∂h,   ∂x = ∂(x/z)/z,   ∂z = ∂z(depth) - ∂k·k/z - ∂(x/z)·x/z² (and the same by y),
        ∂mean = Wᵀ∂p;   Σ = FFᵀ, F = R·diag(s):   ∂F = 2·∂Σ·F,   ∂sₖ = Σᵢ Rᵢₖ∂Fᵢₖ,   ∂R = ∂F·diag(s);
        ∂q by the entries of R(q/|q|), less its part along q, over |q|.
    """
    fx, fy = np.float64(camera[0]), np.float64(camera[1])
    w0 = (np.float64(view[0, 0]), np.float64(view[0, 1]), np.float64(view[0, 2]))
    w1 = (np.float64(view[1, 0]), np.float64(view[1, 1]), np.float64(view[1, 2]))
    w2 = (np.float64(view[2, 0]), np.float64(view[2, 1]), np.float64(view[2, 2]))
    turn, size = np.empty((3, 3)), np.empty(3)  # R, s
    left, right, up, down = np.float64(slope[0]), np.float64(slope[1]), np.float64(slope[2]), np.float64(slope[3])
    for s in range(source_S.size):
        i = source_S[s]
        g = in_SG[s]
        d_opacities_N[i] += g[5]
        norm, r0, r1, r2 = _rotation(quats_N4[i])
        cov = _covariance(scales_N3[i], r0, r1, r2)
        d0, d1, d2 = (
            np.float64(means_N3[i, 0]) - view[0, 3],
            np.float64(means_N3[i, 1]) - view[1, 3],
            np.float64(means_N3[i, 2]) - view[2, 3],
        )
        x, y, z = (
            w0[0] * d0 + w0[1] * d1 + w0[2] * d2,
            w1[0] * d0 + w1[1] * d1 + w1[2] * d2,
            w2[0] * d0 + w2[1] * d1 + w2[2] * d2,
        )
        ux, uy = x / z, y / z
        hx, hy = min(max(ux, -left), right), min(max(uy, -up), down)
        kx, ky = fx / z, fy / z
        a0, a1, a2 = kx * (w0[0] - hx * w2[0]), kx * (w0[1] - hx * w2[1]), kx * (w0[2] - hx * w2[2])
        b0, b1, b2 = ky * (w1[0] - hy * w2[0]), ky * (w1[1] - hy * w2[1]), ky * (w1[2] - hy * w2[2])
        pa = (  # Σa, Σb
            cov[0] * a0 + cov[1] * a1 + cov[2] * a2,
            cov[1] * a0 + cov[3] * a1 + cov[4] * a2,
            cov[2] * a0 + cov[4] * a1 + cov[5] * a2,
        )
        pb = (
            cov[0] * b0 + cov[1] * b1 + cov[2] * b2,
            cov[1] * b0 + cov[3] * b1 + cov[4] * b2,
            cov[2] * b0 + cov[4] * b1 + cov[5] * b2,
        )
        cxx = a0 * pa[0] + a1 * pa[1] + a2 * pa[2] + EPS_2D
        cxy = b0 * pa[0] + b1 * pa[1] + b2 * pa[2]
        cyy = b0 * pb[0] + b1 * pb[1] + b2 * pb[2] + EPS_2D
        determinant = cxx * cyy - cxy * cxy
        ma, mb, mc = cyy / determinant, -cxy / determinant, cxx / determinant
        # e = ∂Σ₂ = -M·G·M
        half = 0.5 * g[3]
        m00, m01 = ma * g[2] + mb * half, ma * half + mb * g[4]
        m10, m11 = mb * g[2] + mc * half, mb * half + mc * g[4]
        e00, e01, e11 = -(m00 * ma + m01 * mb), -(m00 * mb + m01 * mc), -(m10 * mb + m11 * mc)
        # ∂a, ∂b: the rows of ∂K
        da0, da1, da2 = (
            2 * (e00 * pa[0] + e01 * pb[0]),
            2 * (e00 * pa[1] + e01 * pb[1]),
            2 * (e00 * pa[2] + e01 * pb[2]),
        )
        db0, db1, db2 = (
            2 * (e01 * pa[0] + e11 * pb[0]),
            2 * (e01 * pa[1] + e11 * pb[1]),
            2 * (e01 * pa[2] + e11 * pb[2]),
        )
        dux, duy = fx * g[0], fy * g[1]
        if -left <= ux <= right:
            dux -= kx * (da0 * w2[0] + da1 * w2[1] + da2 * w2[2])
        if -up <= uy <= down:
            duy -= ky * (db0 * w2[0] + db1 * w2[1] + db2 * w2[2])
        dx, dy = dux / z, duy / z
        spread = da0 * a0 + da1 * a1 + da2 * a2 + db0 * b0 + db1 * b1 + db2 * b2  # k·∂k of both
        dz = g[9] - (spread + dux * ux + duy * uy) / z
        for c in range(3):
            d_means_N3[i, c] += w0[c] * dx + w1[c] * dy + w2[c] * dz
        # ∂Σ = Kᵀ∂Σ₂K, then ∂F = 2·∂Σ·F column by column
        f00, f01, f02 = e00 * a0 + e01 * b0, e00 * a1 + e01 * b1, e00 * a2 + e01 * b2
        f10, f11, f12 = e01 * a0 + e11 * b0, e01 * a1 + e11 * b1, e01 * a2 + e11 * b2
        for c in range(3):
            turn[0, c], turn[1, c], turn[2, c] = r0[c], r1[c], r2[c]
            size[c] = scales_N3[i, c]
        for c in range(3):
            along_a = f00 * turn[0, c] + f01 * turn[1, c] + f02 * turn[2, c]
            along_b = f10 * turn[0, c] + f11 * turn[1, c] + f12 * turn[2, c]
            t0 = 2 * (a0 * along_a + b0 * along_b)
            t1 = 2 * (a1 * along_a + b1 * along_b)
            t2 = 2 * (a2 * along_a + b2 * along_b)
            d_scales_N3[i, c] += (turn[0, c] * t0 + turn[1, c] * t1 + turn[2, c] * t2) * size[c]
            square = size[c] * size[c]
            turn[0, c], turn[1, c], turn[2, c] = t0 * square, t1 * square, t2 * square  # from here on ∂R
        qw, qx, qy, qz = quats_N4[i, 0] / norm, quats_N4[i, 1] / norm, quats_N4[i, 2] / norm, quats_N4[i, 3] / norm
        sum_xy, sum_xz, sum_yz = turn[0, 1] + turn[1, 0], turn[0, 2] + turn[2, 0], turn[1, 2] + turn[2, 1]
        curl_x, curl_y, curl_z = turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]
        dqw = 2 * (qx * curl_x + qy * curl_y + qz * curl_z)
        dqx = 2 * (qw * curl_x + qy * sum_xy + qz * sum_xz - 2 * qx * (turn[1, 1] + turn[2, 2]))
        dqy = 2 * (qw * curl_y + qx * sum_xy + qz * sum_yz - 2 * qy * (turn[0, 0] + turn[2, 2]))
        dqz = 2 * (qw * curl_z + qx * sum_xz + qy * sum_yz - 2 * qz * (turn[0, 0] + turn[1, 1]))
        along = dqw * qw + dqx * qx + dqy * qy + dqz * qz
        d_quats_N4[i, 0] += (dqw - along * qw) / norm
        d_quats_N4[i, 1] += (dqx - along * qx) / norm
        d_quats_N4[i, 2] += (dqy - along * qy) / norm
        d_quats_N4[i, 3] += (dqz - along * qz) / norm
