"""The figure of what a planner weighs: every plan of weight is drawn, the heaviest in full."""

import re

import numpy as np

from senna2.report.weighed import weighed_figure
from senna2.types import Rig, Samples


def test_every_plan_of_weight_is_drawn():
    samples = Samples.fake(2, Rig.fake())
    plans = np.stack([samples.future_NT3[:, None, :, :2]] * 3, 1)[:, :, 0] * np.array([0.5, 1.0, 1.2])[:, None, None]
    heads = ("a turn", "a stop")
    figure = weighed_figure("resad+decision", "What it weighs", samples, plans, np.array([[0.2, 0.8, 0.0]] * 2), heads)
    assert figure.svg.startswith("<svg")
    assert all(head in figure.svg for head in heads)
    ids = re.findall(r'id="([^"]+)"', figure.svg)
    assert ids
    assert all(i.startswith("weighed-resad-decision-") for i in ids)
    assert figure.svg.count("stroke: #1d4ed8; stroke-width: 1.8") == 2  # the heaviest of each sample
    groups = re.findall(r'<g id="weighed-resad-decision-LineCollection_\d+">(.*?)</g>', figure.svg, re.S)
    assert [g.count("<path") for g in groups] == [2, 2]  # the one without weight is not
    assert (
        weighed_figure("x", "t", samples, plans, np.ones((2, 3)), heads).svg
        == weighed_figure("x", "t", samples, plans, np.ones((2, 3)), heads).svg
    )  # equal runs give equal pages
