// The yardstick of benchmarks/render.py: the CPU renderer's image formation (src/senna2/world/render/base.py) written by
// hand in C++ with AVX2 and FMA intrinsics. Same cells, projection, cut-offs, 1 mm depth steps, radix sort, 16x16 tiles
// and stops of rows and tiles; eight pixels at a time; plain day sky; degree-0 colours. Compiled by the benchmark:
// g++ -O3 -march=native -ffast-math -shared -fPIC. Layouts: project.py.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kGeometry = 12, kTile = 16, kStride = 24, kPlane = kTile * kStride;
constexpr float kEps2d = 0.3f, kAlphaMax = 0.99f, kThroughMin = 1e-4f;

struct Splat {
  float u, v, xx, xy, yy, opacity, limit, r, g, b, depth;
  int16_t x0, x1, y0, y1;
};

struct Scratch {  // kept between views, as the renderer keeps its buffers
  std::vector<Splat> splats;
  std::vector<uint8_t> visible;
  std::vector<uint32_t> key, key_out;
  std::vector<int32_t> order, order_out, lists;
  std::vector<int64_t> offsets, place;
};

struct Cloud {
  const float *geometry, *cells, *rgb;
  const int32_t *cell;
  int64_t count, cell_count;
  float view[12];  // 3x4 row-major: rotation cloud -> camera | camera centre in the cloud's axes
  float sphere[4];
};

struct Camera {
  float fx, fy, cx, cy, left, right, up, down, near;
  int32_t width, height;
};

bool misses(const Camera &c, const float *view, const float *s, float slack_x, float slack_y) {
  const float a = s[0] - view[3], b = s[1] - view[7], d = s[2] - view[11], r = s[3];
  const float x = view[0] * a + view[1] * b + view[2] * d;
  const float y = view[4] * a + view[5] * b + view[6] * d;
  const float z = view[8] * a + view[9] * b + view[10] * d;
  const float left = (c.cx + 3) / c.fx, right = (c.width - c.cx + 3) / c.fx;
  const float up = (c.cy + 3) / c.fy, down = (c.height - c.cy + 3) / c.fy;
  return !(z + r > c.near && x - z * right < r * slack_x && -x - z * left < r * slack_x &&
           y - z * down < r * slack_y && -y - z * up < r * slack_y);
}

void project(const Cloud &cloud, const Camera &c, Scratch &scratch, size_t &n) {
  const float sx = std::max(c.left, c.right), sy = std::max(c.up, c.down);
  const float slack_x = std::sqrt(1 + 2 * sx * sx), slack_y = std::sqrt(1 + 2 * sy * sy);
  if (misses(c, cloud.view, cloud.sphere, slack_x, slack_y)) return;
  scratch.visible.resize(cloud.cell_count);
  for (int64_t i = 0; i < cloud.cell_count; ++i)
    scratch.visible[i] = !misses(c, cloud.view, cloud.cells + 4 * i, slack_x, slack_y);
  const float *m = cloud.view;
  const float stretch_x = c.fx * c.fx * (1 + sx * sx), stretch_y = c.fy * c.fy * (1 + sy * sy);
  const float w = c.width, h = c.height;
  for (int64_t i = 0; i < cloud.count; ++i) {
    if (!scratch.visible[cloud.cell[i]]) continue;
    const float *g = cloud.geometry + kGeometry * i;
    const float dx = g[0] - m[3], dy = g[1] - m[7], dz = g[2] - m[11];
    const float z = m[8] * dx + m[9] * dy + m[10] * dz;
    if (z < c.near || g[10] < 0) continue;
    const float iz = 1 / z;
    const float ux = (m[0] * dx + m[1] * dy + m[2] * dz) * iz, uy = (m[4] * dx + m[5] * dy + m[6] * dz) * iz;
    const float u = c.fx * ux + c.cx, v = c.fy * uy + c.cy;
    const float variance = g[11] * iz * iz;
    float rx = std::sqrt((variance * stretch_x + kEps2d) * g[10]);
    if (u + rx < 0 || u - rx > w) continue;
    float ry = std::sqrt((variance * stretch_y + kEps2d) * g[10]);
    if (v + ry < 0 || v - ry > h) continue;
    const bool outside = ux < -c.left || ux > c.right || uy < -c.up || uy > c.down;
    if (outside && 9 * variance > 1 + ux * ux + uy * uy) continue;
    const float ax = std::min(std::max(ux, -c.left), c.right), ay = std::min(std::max(uy, -c.up), c.down);
    const float kx = c.fx * iz, ky = c.fy * iz;
    const float a0 = kx * (m[0] - ax * m[8]), a1 = kx * (m[1] - ax * m[9]), a2 = kx * (m[2] - ax * m[10]);
    const float b0 = ky * (m[4] - ay * m[8]), b1 = ky * (m[5] - ay * m[9]), b2 = ky * (m[6] - ay * m[10]);
    const float p0 = g[3] * a0 + g[4] * a1 + g[5] * a2, p1 = g[4] * a0 + g[6] * a1 + g[7] * a2,
                p2 = g[5] * a0 + g[7] * a1 + g[8] * a2;
    const float q0 = g[3] * b0 + g[4] * b1 + g[5] * b2, q1 = g[4] * b0 + g[6] * b1 + g[7] * b2,
                q2 = g[5] * b0 + g[7] * b1 + g[8] * b2;
    const float cxx = a0 * p0 + a1 * p1 + a2 * p2 + kEps2d, cyy = b0 * q0 + b1 * q1 + b2 * q2 + kEps2d;
    const float cxy = b0 * p0 + b1 * p1 + b2 * p2;
    rx = std::sqrt(cxx * g[10]);
    ry = std::sqrt(cyy * g[10]);
    const int x0 = (int)std::ceil(std::max(u - rx - 0.5f, 0.0f)), x1 = (int)std::min(u + rx - 0.5f, w - 1) + 1;
    const int y0 = (int)std::ceil(std::max(v - ry - 0.5f, 0.0f)), y1 = (int)std::min(v + ry - 0.5f, h - 1) + 1;
    if (u + rx < 0.5f || v + ry < 0.5f || x0 >= x1 || y0 >= y1) continue;
    const float inverse = 1 / std::max(cxx * cyy - cxy * cxy, 1e-10f);
    const float *rgb = cloud.rgb + 3 * i;
    scratch.splats[n++] = {u,      v,      cyy * inverse, -cxy * inverse, cxx * inverse, g[9],        0.5f * g[10], rgb[0],
                           rgb[1], rgb[2], z,             (int16_t)x0,    (int16_t)x1,   (int16_t)y0, (int16_t)y1};
  }
}

void sort(Scratch &s, size_t n) {
  uint32_t start[3][2048] = {}, largest = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t k = (uint32_t)(int64_t)std::min(s.splats[i].depth * 1024.0f + 0.37f, 4e9f);
    s.key[i] = k;
    s.order[i] = (int32_t)i;
    largest = std::max(largest, k);
    ++start[0][k & 2047];
    ++start[1][(k >> 11) & 2047];
    ++start[2][k >> 22];
  }
  for (int pass = 0; pass < (largest < (1u << 22) ? 2 : 3); ++pass) {
    uint32_t total = 0;
    for (uint32_t &count : start[pass]) {
      const uint32_t c = count;
      count = total;
      total += c;
    }
    for (size_t i = 0; i < n; ++i) {
      const uint32_t slot = start[pass][(s.key[i] >> (11 * pass)) & 2047]++;
      s.key_out[slot] = s.key[i];
      s.order_out[slot] = s.order[i];
    }
    s.key.swap(s.key_out);
    s.order.swap(s.order_out);
  }
}

void bin(Scratch &s, size_t n, int width, int height) {
  const int columns = (width + kTile - 1) / kTile, rows = (height + kTile - 1) / kTile;
  s.offsets.assign(columns * rows + 1, 0);
  const auto each_tile = [&](const Splat &p, auto &&visit) {
    for (int row = p.y0 / kTile; row <= (p.y1 - 1) / kTile; ++row)
      for (int column = p.x0 / kTile; column <= (p.x1 - 1) / kTile; ++column) visit(row * columns + column);
  };
  for (size_t i = 0; i < n; ++i) each_tile(s.splats[i], [&](int t) { ++s.offsets[t + 1]; });
  for (int t = 0; t < columns * rows; ++t) s.offsets[t + 1] += s.offsets[t];
  s.place = s.offsets;
  if (s.lists.size() < (size_t)s.offsets.back()) s.lists.resize(s.offsets.back() * 5 / 4);
  for (size_t k = 0; k < n; ++k) {
    const int32_t i = s.order[k];
    each_tile(s.splats[i], [&](int t) { s.lists[s.place[t]++] = i; });
  }
}

// count: pixels looked at, pixels blended into; only with kCount, for the benchmark's units.
template <bool kCount>
void blend_tile(const Scratch &s, const int32_t *first, const int32_t *last, int left, int top, int columns, int rows,
                float *state, int64_t *count) {
  int live = columns * rows, live_in_row[kTile];
  for (int y = 0; y < kTile; ++y) {
    live_in_row[y] = y < rows ? columns : 0;
    for (int x = 0; x < kStride; ++x) state[y * kStride + x] = y < rows && x < columns ? 1.0f : -1.0f;
  }
  std::memset(state + kPlane, 0, 4 * kPlane * sizeof(float));
  const __m256 lane = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), zero = _mm256_setzero_ps();
  const __m256 top_alpha = _mm256_set1_ps(kAlphaMax), sign = _mm256_set1_ps(-0.0f);
  for (; first != last; ++first) {
    const Splat &p = s.splats[*first];
    const float u = p.u - 0.5f - left, v = p.v - 0.5f - top, c = 0.5f * p.yy;
    const int x0 = std::max(p.x0 - left, 0), x1 = std::min(p.x1 - left, columns);
    const int y0 = std::max(p.y0 - top, 0), y1 = std::min(p.y1 - top, rows);
    const __m256 a = _mm256_set1_ps(0.5f * p.xx), limit = _mm256_set1_ps(p.limit);
    for (int y = y0; y < y1; ++y) {
      if (live_in_row[y] == 0) continue;
      const float dy = y - v;
      const __m256 cross = _mm256_set1_ps(p.xy * dy), square = _mm256_set1_ps(c * dy * dy);
      for (int x = x0; x < x1; x += 8) {
        float *at = state + y * kStride + x;
        const __m256 through = _mm256_loadu_ps(at), dx = _mm256_add_ps(_mm256_set1_ps(x - u), lane);
        const __m256 sigma = _mm256_fmadd_ps(_mm256_fmadd_ps(a, dx, cross), dx, square);
        const __m256 on = _mm256_and_ps(_mm256_cmp_ps(sigma, limit, _CMP_LE_OQ),
                                        _mm256_cmp_ps(through, zero, _CMP_GT_OQ));
        if (kCount) {
          count[0] += std::min(x1 - x, 8);
          count[1] += __builtin_popcount(_mm256_movemask_ps(on));
        }
        if (_mm256_movemask_ps(on) == 0) continue;
        const __m256 e = _mm256_mul_ps(sigma, _mm256_set1_ps(-0.125f));
        __m256 q = _mm256_fmadd_ps(e, _mm256_set1_ps(1.0f / 120), _mm256_set1_ps(1.0f / 24));
        q = _mm256_fmadd_ps(q, e, _mm256_set1_ps(1.0f / 6));
        q = _mm256_fmadd_ps(q, e, _mm256_set1_ps(0.5f));
        q = _mm256_fmadd_ps(q, e, _mm256_set1_ps(1.0f));
        q = _mm256_fmadd_ps(q, e, _mm256_set1_ps(1.0f));
        q = _mm256_mul_ps(q, q);
        q = _mm256_mul_ps(q, q);
        q = _mm256_mul_ps(q, q);
        const __m256 alpha = _mm256_min_ps(_mm256_mul_ps(_mm256_set1_ps(p.opacity), q), top_alpha);
        __m256 weight = _mm256_and_ps(_mm256_mul_ps(alpha, through), on);
        __m256 rest = _mm256_sub_ps(through, weight);
        const __m256 stop = _mm256_and_ps(on, _mm256_cmp_ps(rest, _mm256_set1_ps(kThroughMin), _CMP_LE_OQ));
        weight = _mm256_andnot_ps(stop, weight);
        rest = _mm256_blendv_ps(rest, _mm256_xor_ps(through, sign), stop);
        _mm256_storeu_ps(at, rest);
        const float values[4] = {p.r, p.g, p.b, p.depth};
        for (int k = 0; k < 4; ++k) {
          float *plane = at + (k + 1) * kPlane;
          _mm256_storeu_ps(plane, _mm256_fmadd_ps(weight, _mm256_set1_ps(values[k]), _mm256_loadu_ps(plane)));
        }
        if (const int bits = _mm256_movemask_ps(stop)) {
          live -= __builtin_popcount(bits);
          live_in_row[y] -= __builtin_popcount(bits);
        }
      }
    }
    if (live <= 0) return;
  }
}

template <bool kCount>
void blend(const Scratch &s, const Camera &c, const float *up, const float *rays, const float *sky, float *rgb,
           float *depth, float *alpha, int64_t *count) {
  const int tiles_x = (c.width + kTile - 1) / kTile, tiles = (int)s.offsets.size() - 1;
  float state[5 * kPlane];
  for (int t = 0; t < tiles; ++t) {
    const int left = t % tiles_x * kTile, top = t / tiles_x * kTile;
    const int columns = std::min(kTile, c.width - left), rows = std::min(kTile, c.height - top);
    blend_tile<kCount>(s, s.lists.data() + s.offsets[t], s.lists.data() + s.offsets[t + 1], left, top, columns, rows,
                       state, count);
    for (int y = 0; y < rows; ++y)
      for (int x = 0; x < columns; ++x) {
        const float *at = state + y * kStride + x;
        const int64_t pixel = (int64_t)(top + y) * c.width + left + x;
        const float through = std::fabs(at[0]), covered = 1 - through, *ray = rays + 3 * pixel;
        float haze = 1 - std::min(std::max(up[0] * ray[0] + up[1] * ray[1] + up[2] * ray[2], 0.0f), 1.0f);
        haze *= haze;
        haze *= haze;
        for (int k = 0; k < 3; ++k)
          rgb[3 * pixel + k] =
              std::min(at[(k + 1) * kPlane] + through * (sky[3 + k] + haze * (sky[k] - sky[3 + k])), 1.0f);
        alpha[pixel] = covered;
        depth[pixel] = covered > 0 ? at[4 * kPlane] / covered : 0;
      }
  }
}

}  // namespace

extern "C" {

// Draws one view. sky: horizon, zenith. stage: where to stop (1 projected, 2 sorted, 3 binned, 4 drawn). count, if not
// null: pixels looked at and blended into, summed over splats, are added. Returns the number of splats.
int64_t render_view(const Cloud *clouds, int64_t number, const Camera *camera, const float *up, const float *rays,
                    const float *sky, float *rgb, float *depth, float *alpha, int stage, int64_t *count) {
  static thread_local Scratch scratch;
  size_t most = 0, n = 0;
  for (int64_t i = 0; i < number; ++i) most += clouds[i].count;
  if (scratch.splats.size() < most) {
    scratch.splats.resize(most);
    scratch.key.resize(most);
    scratch.key_out.resize(most);
    scratch.order.resize(most);
    scratch.order_out.resize(most);
  }
  for (int64_t i = 0; i < number; ++i) project(clouds[i], *camera, scratch, n);
  if (stage < 2) return (int64_t)n;
  sort(scratch, n);
  if (stage < 3) return (int64_t)n;
  bin(scratch, n, camera->width, camera->height);
  if (stage < 4) return (int64_t)n;
  if (count)
    blend<true>(scratch, *camera, up, rays, sky, rgb, depth, alpha, count);
  else
    blend<false>(scratch, *camera, up, rays, sky, rgb, depth, alpha, count);
  return (int64_t)n;
}

// Sum of floats, eight accumulators: memory bandwidth of one core. The caller sizes the array beyond the caches.
float stream(const float *values, int64_t count) {
  __m256 sum[4] = {};
  for (int64_t i = 0; i + 32 <= count; i += 32)
    for (int k = 0; k < 4; ++k) sum[k] = _mm256_add_ps(sum[k], _mm256_loadu_ps(values + i + 8 * k));
  const __m256 all = _mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]));
  float lanes[8];
  _mm256_storeu_ps(lanes, all);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
}

// 12 independent chains of AVX2 fused multiply-adds, `rounds` long: 192 flops a round is the core's peak at this width.
float multiply_add(int64_t rounds) {
  __m256 chain[12];
  for (int k = 0; k < 12; ++k) chain[k] = _mm256_set1_ps(1.0f + k);
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (int64_t i = 0; i < rounds; ++i)
    for (int k = 0; k < 12; ++k) chain[k] = _mm256_fmadd_ps(chain[k], a, b);
  __m256 all = chain[0];
  for (int k = 1; k < 12; ++k) all = _mm256_add_ps(all, chain[k]);
  float lanes[8];
  _mm256_storeu_ps(lanes, all);
  return lanes[0];
}
}
