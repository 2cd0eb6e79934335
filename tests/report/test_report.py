"""The page is whole and fetches nothing; a video plays, shows the collision and repeats byte for byte."""

import base64
import dataclasses
import re
import subprocess
from html.parser import HTMLParser

import imageio_ffmpeg
import numpy as np
import pytest

from senna2.evaluate.closed_loop import clip_row, closed_loop
from senna2.evaluate.consistency import consistency
from senna2.evaluate.control import control, relative_speeds
from senna2.evaluate.open_loop import open_loop
from senna2.evaluate.results import assemble, compare
from senna2.report.birdseye import BirdsEye
from senna2.report.figures import forced_drives_figure, relative_speed_figure
from senna2.report.media import Video
from senna2.report.page import render_page, write_report
from senna2.report.tables import ABREAST, families_table, number, suite_table, verdict
from senna2.report.video import (
    ABOVE_W,
    HEAD_H,
    VIEW_H,
    VIEW_W,
    decision_words,
    family_video,
    front_views,
    outcome_words,
    scaled_rig,
    write_mp4,
)
from senna2.types import Contact, InputError, Plans, Rollout, Samples, Speed, VehicleShape
from senna2.world.render.base import View
from senna2.world.render.cpu import CpuRenderer
from senna2.world.scene import Scene

HIT = (Contact(0.3, "leader", 0, True, "front", 8.0),)


class Grey:
    """A renderer that counts what it is given and paints all grey."""

    name = "grey"

    def __init__(self):
        self.instances = []

    def render(self, instances, cameras, sky):
        self.instances.append(instances)
        size = (cameras[0].camera.height, cameras[0].camera.width)
        return [View(np.full((*size, 3), 0.5, np.float32), np.zeros(size, np.float32), np.ones(size, np.float32))]


def drive(policy="senna2", frames=8, **changes) -> Rollout:
    return dataclasses.replace(Rollout.fake(frames), policy=policy, **changes)


def make_results(bad="senna"):
    samples = dataclasses.replace(Samples.fake(6), clip_N=np.arange(6, dtype=np.int32) % 3, clips=("a", "b", "c"),
                                  families=("f",) * 3)  # fmt: skip
    plans = Plans.fake(6)
    policies, rows = {}, []
    for name, contacts in (("senna2", ()), (bad, HIT)):
        places = [("a", "cut_in", 0), ("a", "cut_in", 1), ("b", "empty", 0), ("b", "empty", 1)]
        drives = [drive(name, clip=c, contacts=contacts, seed=k, family=f) for c, f, k in places]
        rows += [clip_row(d) for d in drives]
        policies[name] = {
            "consistency": consistency(samples, [plans, plans]),
            "open_loop": open_loop(samples, plans, VehicleShape()),
            "closed_loop": closed_loop(drives),
            "control": control(samples, dict.fromkeys((Speed.ACCELERATE, Speed.KEEP, Speed.DECELERATE), plans)),
        }
    return assemble(
        provenance={"command": "senna2 run --recipe smoke"},
        recipe={"name": "smoke", "note": "proves the machinery; its numbers mean <nothing> more"},
        seeds=[0, 1],
        policies=policies,
        clips=rows,
        comparisons=compare(policies, [("senna2", bad)]),
        timings_s={"train": 60.0},
    )


def figures():
    rng = np.random.default_rng(0)
    speeds = (Speed.ACCELERATE, Speed.KEEP, Speed.DECELERATE)
    ratios = {p: {s: rng.normal(1, 0.1, 30) for s in speeds} for p in ("senna", "senna2")}
    ratios["constant"] = {s: np.ones(5) for s in speeds}  # no spread at all
    drives = {None: [drive(), drive(frames=12)], Speed.KEEP: [drive()], Speed.ACCELERATE: []}
    return [relative_speed_figure(ratios), forced_drives_figure(drives, "senna2")]


class Reader(HTMLParser):
    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.sources, self.open, self.text = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        for key in ("href", "xlink:href"):
            self.links += [attrs[key]] if key in attrs else []
        self.sources += [attrs["src"]] if "src" in attrs else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "cut_in.mp4"
    return family_video(path, Scene.fake(), drive("senna", contacts=HIT, frames=4), drive(frames=8), renderer=Grey())


def frames_of(path):
    """ffmpeg's description and the frames (F, H, W, 3) of a video of the default size."""
    size = (HEAD_H + VIEW_H, 2 * (VIEW_W + ABOVE_W) + 8, 3)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stderr.decode(), np.frombuffer(done.stdout, np.uint8).reshape(-1, *size)


def test_the_page_is_whole_and_fetches_nothing(tmp_path, video):
    path = write_report(make_results(), tmp_path / "out", media=[video, *figures()])
    text = path.read_text()
    page = Reader(text)
    assert page.open == []
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link == "data:," or (link.startswith("#") and link[1:] in page.ids), link
    assert len(page.sources) == 1
    kind, data = page.sources[0].split(",", 1)
    assert kind == "data:video/mp4;base64"
    assert base64.b64decode(data) == video.path.read_bytes()
    assert not re.search(r"@import|<script|<iframe|url\((?!#)", text)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_the_page_says_what_was_run_and_found():
    words = " ".join(Reader(render_page(make_results(), figures())).text)
    for part in ("proves the machinery; its numbers mean <nothing> more", "senna2 run --recipe smoke", "1.0 min",
                 "Consistency", "Open loop", "Closed loop", "Control", "at-fault collision", "[0.158, 1.000]",
                 "tie", "Evaluator version 1", "ACCELERATE", "mileage, m", "By family", "without"):  # fmt: skip
        assert part in words, part


def test_names_are_escaped():
    text = render_page(make_results(bad="<script>x</script>"))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def _columns_and_rows(table):
    """The words over the columns, and of each row its name and its cells."""
    head, body = table.split("<tbody>")
    plain = [re.sub(r"<[^>]*>", "", h).strip(" ↑↓") for h in re.findall(r"<th>(.*?)</th>", head)]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return plain[1:], {re.sub(r"<[^>]*>", "", name).strip(" ↑↓"): cells for name, *cells in rows}


@pytest.mark.parametrize("table", [lambda r: suite_table(r, "closed_loop"), families_table])
def test_many_policies_stand_below_each_other_and_a_few_side_by_side(table):
    few = make_results()
    many = make_results()
    for i in range(ABREAST):
        many["policies"][f"other{i}"] = few["policies"]["senna"]
        many["clips"] += [{**c, "policy": f"other{i}"} for c in few["clips"] if c["policy"] == "senna"]
    columns, rows = _columns_and_rows(table(few))
    assert columns == list(few["policies"])
    columns_of_many, rows_of_many = _columns_and_rows(table(many))
    assert list(rows_of_many) == list(many["policies"])
    assert columns_of_many == list(rows)
    for name, cells in rows.items():
        for policy, cell in zip(columns, cells, strict=True):
            assert rows_of_many[policy][columns_of_many.index(name)] == cell


def test_equal_runs_give_equal_pages():
    assert render_page(make_results(), figures()) == render_page(make_results(), figures())


def test_a_run_without_drives_or_comparisons_still_has_a_page():
    bare = assemble(provenance={}, recipe={}, seeds=[], policies={"cv": {"open_loop": {}}})
    page = Reader(render_page(bare))
    assert page.open == []
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))


def test_broken_results_and_missing_videos_leave_the_old_page(tmp_path):
    path = write_report(make_results(), tmp_path)
    before = path.read_text()
    results = make_results()
    results["policies"]["senna"]["open_loop"]["fde_m"]["value"] = float("nan")
    with pytest.raises(InputError, match="fde_m"):
        write_report(results, tmp_path)
    with pytest.raises(InputError, match=r"gone\.mp4"):
        write_report(make_results(), tmp_path, media=[Video("f", "c", tmp_path / "gone.mp4")])
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("metric", "difference", "ci", "seeds", "words"),
    [
        ("closed_loop.af_cr", -0.2, [-0.3, -0.1], [-0.3, -0.2, -0.1], "a better"),
        ("closed_loop.af_cr", 0.2, [0.1, 0.3], [0.2, 0.3, 0.1], "b better"),
        ("closed_loop.af_cr", 0.2, [0.1, 0.3], [0.5, 0.3, -0.2], "training seeds differ"),
        ("closed_loop.af_cr", 0.2, [0.1, 0.3], [0.2], "b better, one training seed"),
        ("consistency.avg", 0.2, [0.1, 0.3], [], "a better"),  # of what was not trained
        ("consistency.avg", 0.2, [-0.1, 0.5], [0.2, 0.2], "tie"),
        ("consistency.avg", 0.0, [0.0, 0.0], [0.0, 0.0], "tie"),
        ("consistency.coverage", 0.2, [0.1, 0.3], [0.2, 0.2], "differs"),
        ("consistency.avg", 0.2, None, [0.2], "no interval"),
    ],
)
def test_verdicts(metric, difference, ci, seeds, words):
    row = {"metric": metric, "a": "a", "b": "b", "difference": difference, "ci95": ci, "per_seed": seeds}
    assert verdict(row)[0] == words


def test_numbers():
    assert [number(v) for v in (None, 0.1234, 12.36, 123.4, -0.5)] == ["–", "0.123", "12.36", "123.4", "-0.500"]


def test_the_video_plays_and_shows_the_collision(video):
    meta, frames = frames_of(video.path)
    stream = re.search(r"Video: .*", meta).group()
    assert "h264" in stream
    assert "yuv420p" in stream
    assert f"{2 * (VIEW_W + ABOVE_W) + 8}x{HEAD_H + VIEW_H}" in stream
    assert "10 fps" in stream
    assert len(frames) == 8 + 10  # the longer drive, and one second to read the end
    edge = frames[-1][HEAD_H + 100, :3].astype(int)  # left border of the left picture after its collision at 0.3 s
    assert (edge[:, 0] > edge[:, 1] + 60).all()
    edge = frames[0][HEAD_H + 100, :3].astype(int)
    assert np.abs(edge - 128).max() < 30
    assert (
        video.outcome == "senna: collides at 0.3 s (front); senna2: reaches the end"
        or "collides at 0.4 s" in video.outcome
    )
    assert video.path.stat().st_size < 400_000


def test_the_video_repeats_byte_for_byte(video, tmp_path):
    again = family_video(tmp_path / "b.mp4", Scene.fake(), drive("senna", contacts=HIT, frames=4), drive(frames=8),
                         renderer=Grey())  # fmt: skip
    assert again.path.read_bytes() == video.path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["b.mp4"]


def test_every_second_frame_keeps_real_time_and_the_end(tmp_path):
    made = family_video(tmp_path / "a.mp4", Scene.fake(), drive("senna"), drive(frames=8), renderer=Grey(), every=2)
    meta, frames = frames_of(made.path)
    assert " 5 fps" in meta
    assert len(frames) == 5 + 5


def test_agents_are_drawn_where_the_rollout_had_them():
    r = drive(frames=3)
    boxes = r.boxes_FA6.copy()
    boxes[1, 0, :2] = (30.0, 3.5)  # left its recording
    boxes[2, 0] = np.nan  # gone
    renderer = Grey()
    list(front_views(Scene.fake(), dataclasses.replace(r, boxes_FA6=boxes), renderer))
    placed = [[i.pose_44 for i in shown if i.pose_44 is not None] for shown in renderer.instances]
    assert [len(p) for p in placed] == [1, 1, 0]
    assert placed[1][0][:2, 3].tolist() == [30.0, 3.5]


def test_the_front_view_is_really_rendered():
    views = list(front_views(Scene.fake(), drive(frames=2), CpuRenderer()))
    assert views[0].shape == (VIEW_H, VIEW_W, 3)
    assert views[0].std() > 5
    assert not np.array_equal(views[0], views[1])


def test_birds_eye_shows_ego_agent_and_what_was_struck():
    above = BirdsEye(Scene.fake(), 132, 180)
    r = drive(frames=3)
    quiet, struck = above.draw(r, 0), above.draw(r, 0, ("leader",))
    blue = (quiet[..., 2].astype(int) - quiet[..., 0] > 120).sum()
    red = (struck[..., 0].astype(int) - struck[..., 1] > 120).sum()
    assert blue > 50
    assert red > 100  # both boxes
    assert (quiet[..., 0].astype(int) - quiet[..., 1] > 120).sum() == 0
    without_plan = dataclasses.replace(r, plans_FT2=np.full_like(r.plans_FT2, np.nan))
    assert not np.array_equal(above.draw(without_plan, 0), quiet)


def test_birds_eye_is_turned_with_the_ego():
    scene, r = Scene.fake(), drive(frames=2)
    ego = r.ego_F6.copy()
    ego[:, 2] = np.pi / 2  # stands across the road
    across = BirdsEye(scene, 132, 180).draw(dataclasses.replace(r, ego_F6=ego), 0)
    along = BirdsEye(scene, 132, 180).draw(r, 0)
    assert not np.array_equal(across, along)


def test_words():
    assert decision_words(drive(), 0) == "KEEP SPEED, GO STRAIGHT"
    assert decision_words(drive(decision_F2=np.full((8, 2), -1, np.int8)), 0) == ""
    rear = (Contact(0.2, "leader", 0, False, "rear", 8.0),)
    assert outcome_words(drive(contacts=rear)) == "collides at 0.2 s (rear, not at fault)"


def test_scaled_rig_keeps_the_optics():
    scene = Scene.fake()
    big = scaled_rig(scene, 3).rig["front"]
    small = scene.rig["front"]
    assert (big.width, big.height) == (96, 48)
    assert big.fx / big.width == pytest.approx(small.fx / small.width)
    assert big.cy / big.height == pytest.approx(small.cy / small.height)


def test_bad_videos(tmp_path):
    with pytest.raises(InputError, match="even"):
        write_mp4(tmp_path / "a.mp4", [np.zeros((11, 10, 3), np.uint8)], 10)
    with pytest.raises(InputError, match="no frame"):
        write_mp4(tmp_path / "a.mp4", [], 10)
    with pytest.raises(InputError, match="differ"):
        family_video(tmp_path / "a.mp4", Scene.fake(), drive(clip="x"), drive(clip="y"), renderer=Grey())

    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("the disk is full")

    (tmp_path / "a.mp4").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="full"):
        write_mp4(tmp_path / "a.mp4", broken(), 10)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_relative_speeds_feed_the_figure():
    samples = Samples.fake(6)
    values = relative_speeds(samples, Plans.fake(6))
    svg = relative_speed_figure({"p": {Speed.KEEP: values}}).svg
    assert svg.startswith("<svg")
    assert "KEEP SPEED" in svg


def test_forced_drives_are_drawn_until_the_shortest_clip_ends():
    whole = Rollout.fake()
    short = dataclasses.replace(whole, clip="short", ego_F6=whole.ego_F6[:6])
    hit = dataclasses.replace(whole, ego_F6=whole.ego_F6[:3])  # ended early: does not make its clip a short one
    cut = dataclasses.replace(whole, ego_F6=whole.ego_F6[:6])
    drawn = {Speed.KEEP: [whole, short], Speed.ACCELERATE: [hit, short]}
    same = {Speed.KEEP: [cut, short], Speed.ACCELERATE: [hit, short]}
    assert forced_drives_figure(drawn, "senna2").svg == forced_drives_figure(same, "senna2").svg
    alone = {Speed.KEEP: [whole], Speed.ACCELERATE: [hit]}
    assert forced_drives_figure(alone, "senna2").svg != forced_drives_figure(same, "senna2").svg
