"""Agent, map and navigation queries over the scene tokens, their heads and losses (spec section 2: the E2E condition).

Legend: B batch, S scene tokens, Q queries, A true agents, L true polylines, P points, C width, V cameras.
The paper names the heads, not their losses: set matching as in DETR and MapTR [ours].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.layers import Attention, mlp
from senna2.types import LANE_POINTS, ROUTE_POINTS, AgentClass, Direction, LaneKind, Rig

RANGE_M = 60.0  # objects further off cover a pixel or two at the default resolution
CENTRE_Z = 0.8  # m, height at which a box is looked for in the images
SCALE_M = 20.0
ROUTE_AT = (2, 5, 9, ROUTE_POINTS - 1)  # route points that the navigation head predicts (about 9, 18, 30, 60 m ahead)


class Perception(nn.Module):
    """Learned queries read the image tokens in one decoder block; the heads run only for losses and reading out."""

    ego_to_cam_V44: Tensor
    lens_V4: Tensor

    def __init__(self, rig: Rig, dim: int, heads: int, *, agents: int, lines: int) -> None:
        super().__init__()
        self.agents, self.lines = agents, lines
        self.queries_QC = nn.Parameter(torch.randn(agents + lines + 1, dim) * 0.5)
        self.command = nn.Embedding(len(Direction), dim)  # only the navigation query is told the command
        self.cross_attention, self.self_attention = Attention(dim, heads), Attention(dim, heads)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU("tanh"), nn.Linear(2 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.agent_head = mlp(dim, dim, 8 + len(AgentClass))
        self.line_head = mlp(dim, dim, 1 + 2 * LANE_POINTS + len(LaneKind))
        self.route_head = mlp(dim, dim, 2 * len(ROUTE_AT))
        inverse = np.stack([np.linalg.inv(np.asarray(c.cam_to_ego_44, np.float64)) for c in rig.cameras])
        lens = np.array([(c.fx, c.cx, c.width, c.near) for c in rig.cameras])
        self.register_buffer("ego_to_cam_V44", torch.tensor(inverse, dtype=torch.float32), persistent=False)
        self.register_buffer("lens_V4", torch.tensor(lens, dtype=torch.float32), persistent=False)

    def forward(self, scene_BSC: Tensor, navigation_B: Tensor, valid_BS: Tensor | None = None) -> Tensor:
        """→ query tokens (B, agents + lines + 1, C); the last one is the navigation token. `valid_BS`: False hides a
        scene token."""
        x = self.queries_QC.expand(len(scene_BSC), -1, -1)
        told = self.command(navigation_B % len(Direction))[:, None]
        x = torch.cat([x[:, :-1], x[:, -1:] + told], 1)
        x = x + self.cross_attention(self.norms[0](x), scene_BSC, valid_BS)
        x = x + self.self_attention(self.norms[1](x))
        x = x + self.mlp(self.norms[2](x))
        return cast(Tensor, self.norms[3](x))

    def visible(self, points_2: Tensor) -> Tensor:
        """(…, 2) points on the ground plane of the ego → (…): within range and the horizontal view of any camera.
        Occlusion is not considered."""
        x, y = torch.nan_to_num(points_2).unbind(-1)
        point = torch.stack([x, y, torch.full_like(x, CENTRE_Z), torch.ones_like(x)], -1)
        cam = torch.einsum("vij,...j->...vi", self.ego_to_cam_V44, point)
        fx, cx, width, near = self.lens_V4.unbind(-1)
        depth = cam[..., 2]
        u = fx * cam[..., 0] / depth.clamp_min(1e-3) + cx
        seen = ((depth > near) & (u >= 0) & (u <= width)).any(-1)
        return seen & (torch.hypot(x, y) < RANGE_M) & torch.isfinite(points_2).all(-1)

    def detect(self, queries_BQC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """→ probability of an agent (B, Q), boxes (B, Q, 6) as in StateObservation, class logits (B, Q, 8)."""
        out = self.agent_head(queries_BQC[:, : self.agents])
        box, logits = _box_from_code(out[..., 1:8]), out[..., 8:]
        return out[..., 0].sigmoid(), box, logits

    def trace(self, queries_BQC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """→ probability of a map line (B, Q), its points (B, Q, P, 2) in m, kind logits (B, Q, kinds)."""
        out = self.line_head(queries_BQC[:, self.agents : -1])
        points = out[..., 1 : 1 + 2 * LANE_POINTS].unflatten(-1, (LANE_POINTS, 2)) * SCALE_M
        return out[..., 0].sigmoid(), points, out[..., 1 + 2 * LANE_POINTS :]

    def losses(self, queries_BQC: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`agent`, `map`, `navigation`: (B,) each, finite also where there is nothing to see (then only "nothing there"
        is learned) and 0 where there is no route."""
        agents = self.agent_head(queries_BQC[:, : self.agents])
        lines = self.line_head(queries_BQC[:, self.agents : -1])
        return {
            "agent": self._agent_loss(agents, batch),
            "map": self._map_loss(lines, batch),
            "navigation": self._route_loss(self.route_head(queries_BQC[:, -1]), batch),
        }

    def _agent_loss(self, out_BQF: Tensor, batch: Batch) -> Tensor:
        target = _code_from_box(batch.boxes_BA6)
        real = (batch.classes_BA >= 0) & self.visible(batch.boxes_BA6[..., :2])
        classes = batch.classes_BA.clamp_min(0)
        logits = out_BQF[..., 8:]

        def cost(b: int, rows: Tensor) -> Tensor:
            gap = torch.cdist(out_BQF[b, :, 1:3], target[b, rows, :2], p=1)
            return 2 * gap - out_BQF[b, :, :1].sigmoid() - logits[b].softmax(-1)[:, classes[b, rows]]

        sample, query, truth = _match(real, cost)
        box = F.smooth_l1_loss(out_BQF[sample, query, 1:8], target[sample, truth], beta=0.1, reduction="none").sum(-1)
        box = box + 0.5 * F.cross_entropy(logits[sample, query], classes[sample, truth], reduction="none")
        return _exists(out_BQF[..., 0], sample, query) + _mean_per_sample(box, sample, len(real))

    def _map_loss(self, out_BQF: Tensor, batch: Batch) -> Tensor:
        target = torch.nan_to_num(batch.lanes_BLP2).flatten(-2) / SCALE_M
        real = (batch.lane_kinds_BL >= 0) & self.visible(batch.lanes_BLP2).any(-1)
        kinds = batch.lane_kinds_BL.clamp_min(0)
        points, logits = out_BQF[..., 1 : 1 + 2 * LANE_POINTS], out_BQF[..., 1 + 2 * LANE_POINTS :]

        def cost(b: int, rows: Tensor) -> Tensor:
            gap = torch.cdist(points[b], target[b, rows], p=1) / LANE_POINTS
            return 2 * gap - out_BQF[b, :, :1].sigmoid() - logits[b].softmax(-1)[:, kinds[b, rows]]

        sample, query, truth = _match(real, cost)
        line = F.smooth_l1_loss(points[sample, query], target[sample, truth], beta=0.1, reduction="none").mean(-1)
        line = 4 * line + 0.5 * F.cross_entropy(logits[sample, query], kinds[sample, truth], reduction="none")
        return _exists(out_BQF[..., 0], sample, query) + _mean_per_sample(line, sample, len(real))

    def _route_loss(self, out_BF: Tensor, batch: Batch) -> Tensor:
        target = batch.route_BR2[:, list(ROUTE_AT)].flatten(-2) / SCALE_M
        known = torch.isfinite(target).all(-1)
        loss = F.smooth_l1_loss(out_BF, torch.nan_to_num(target), beta=0.1, reduction="none").mean(-1)
        return loss * known


def _code_from_box(box_6: Tensor) -> Tensor:
    x, y, yaw, length, width, v = torch.nan_to_num(box_6).unbind(-1)
    size = [torch.log(length.clamp_min(0.1) / 4.5), torch.log(width.clamp_min(0.1) / 1.8)]
    return torch.stack([x / SCALE_M, y / SCALE_M, yaw.sin(), yaw.cos(), *size, v / 10], -1)


def _box_from_code(code_7: Tensor) -> Tensor:
    x, y, sin, cos, length, width, v = code_7.unbind(-1)
    return torch.stack(
        [x * SCALE_M, y * SCALE_M, torch.atan2(sin, cos), 4.5 * length.exp(), 1.8 * width.exp(), 10 * v], -1
    )


def _match(real_BA: Tensor, cost: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Cheapest one-to-one assignment (Hungarian) of real targets to queries → (sample, query, target) indices (M,)."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for b in range(len(real_BA)):
        rows = real_BA[b].nonzero()[:, 0]
        if len(rows) == 0:
            continue
        with torch.no_grad():
            matrix = torch.nan_to_num(cost(b, rows), nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
        q, a = (torch.from_numpy(i) for i in linear_sum_assignment(matrix))
        found.append((torch.full_like(q, b), q.to(rows.device), rows[a.to(rows.device)]))
    if not found:
        none = torch.zeros(0, dtype=torch.int64, device=real_BA.device)
        return none, none, none
    sample, query, truth = (torch.cat(column) for column in zip(*found, strict=True))
    return sample.to(real_BA.device), query, truth


def _exists(logit_BQ: Tensor, sample: Tensor, query: Tensor) -> Tensor:
    truth = torch.zeros_like(logit_BQ)
    truth[sample, query] = 1.0
    return F.binary_cross_entropy_with_logits(logit_BQ, truth, reduction="none").mean(-1) * 2


def _mean_per_sample(loss_M: Tensor, sample_M: Tensor, samples: int) -> Tensor:
    total = loss_M.new_zeros(samples).index_add(0, sample_M, loss_M)
    count = torch.bincount(sample_M, minlength=samples).clamp_min(1)
    return total / count
