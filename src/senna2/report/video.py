"""The clip that shows it: one policy left, another right, decision, speed and time written over, the scene
from above beside each (the form of the paper's project page). H.264 by the ffmpeg binary that imageio-ffmpeg
ships."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from senna2.decisions import DIRECTION_TEXT, SPEED_TEXT
from senna2.evaluate.closed_loop import judge
from senna2.files import written_whole
from senna2.frames import pose_to_matrix
from senna2.report.birdseye import HIT, BirdsEye
from senna2.report.media import Video
from senna2.types import Array, Camera, Contact, EgoState, InputError, Rig, Rollout
from senna2.world.render.base import PosedCamera, Renderer, Sky, to_u8
from senna2.world.render.select import choose_renderer
from senna2.world.scene import BRAKE, Scene
from senna2.world.sensors import CameraSensor
from senna2.world.traffic import AgentsState, ReplayTraffic

VIEW_W, VIEW_H = 320, 180  # px, camera picture
ABOVE_W = 132  # px, bird's-eye view
HEAD_H = 20  # px, title bar
GAP = 8  # px between the two sides
HOLD_S = 1.0  # the last picture stays, so that the eye can read it
FOV_DEG = 80.0
QUALITY = 27  # x264's crf: about 20 kB a second at this size
EXACT = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"]
INK, PAPER = (24, 32, 44), (255, 255, 255)
DARK, RED = (15, 23, 42, 190), (220, 38, 38, 235)


def video_camera(scene: Scene) -> Camera:
    """The clip's front camera as a film frame: its place, 16:9 and uncropped."""
    front = scene.rig["front"]
    focal = VIEW_W / 2 / np.tan(np.radians(FOV_DEG) / 2)
    return dataclasses.replace(
        front,
        width=VIEW_W,
        height=VIEW_H,
        fx=focal,
        fy=focal,
        cx=VIEW_W / 2,
        cy=0.46 * VIEW_H,
        history_s=(0.0,),
    )


def scaled_rig(scene: Scene, scale: float) -> Scene:
    """The clip with every camera's picture `scale` times as large, the optics kept: to look at, not to drive
    by."""

    def scaled(c: Camera) -> Camera:
        width, height = max(round(c.width * scale), 1), max(round(c.height * scale), 1)
        x, y = width / c.width, height / c.height
        return dataclasses.replace(c, width=width, height=height, fx=c.fx * x, fy=c.fy * y, cx=c.cx * x, cy=c.cy * y)

    return dataclasses.replace(scene, rig=Rig(tuple(scaled(c) for c in scene.rig.cameras)))


def front_views(
    scene: Scene, rollout: Rollout, renderer: Renderer, frames: Sequence[int] | None = None
) -> Iterator[Array]:
    """(VIEW_H, VIEW_W, 3) uint8 of each frame (or of `frames`), from the poses that the rollout drove through.

    Agents stand where they were in the rollout: reactive traffic leaves its recording.
    """
    first = round(float(rollout.t_F[0]) / rollout.dt)
    log = ReplayTraffic(scene.tracks, rollout.dt, first + len(rollout))
    column = {name: a for a, name in enumerate(rollout.agent_ids)}
    boxes_FA6 = np.full((len(rollout), len(log.ids), 6), np.nan)
    for i, name in enumerate(log.ids):
        if name in column:
            boxes_FA6[:, i] = rollout.boxes_FA6[:, column[name]]
    lights_FA = log.lights_KA[first:] if rollout.traffic == "replay" else _brake_lights(boxes_FA6, rollout.dt)
    sensor = CameraSensor(scene, rollout.dt, renderer)
    camera = video_camera(scene)
    for f in range(len(rollout)) if frames is None else frames:
        x, y, yaw, v, a, steer = (float(value) for value in rollout.ego_F6[f])
        ego = EgoState(x, y, yaw, v, a, steer)
        posed = PosedCamera(camera, pose_to_matrix(rollout.ego_F6[f, :3]) @ camera.cam_to_ego_44)
        agents = AgentsState(first + f, boxes_FA6[f], lights_FA[f])
        view = renderer.render(sensor.instances(agents, ego), [posed], Sky.of(scene.meta.weather))[0]
        yield to_u8(view.rgb_HW3)


def _brake_lights(boxes_FA6: Array, dt: float) -> Array:
    """(F, A) lights that follow from what agents did: a rollout keeps none, and those of the log may be untrue."""
    speed_FA = boxes_FA6[..., 5]
    slowing = np.diff(speed_FA, axis=0, append=speed_FA[-1:]) < -0.5 * dt
    return np.where(slowing | (speed_FA < 0.1), BRAKE, 0).astype(np.int8)


@dataclass(frozen=True)
class _Side:
    """One half of the picture, frame by frame; past its end the last frame stays."""

    label: str
    frames: list[Array]

    def at(self, f: int) -> Array:
        return self.frames[min(f, len(self.frames) - 1)]


def _side(scene: Scene, rollout: Rollout, renderer: Renderer, label: str, every: int) -> _Side:
    above = BirdsEye(scene, ABOVE_W, VIEW_H)
    shown = sorted({*range(0, len(rollout), every), len(rollout) - 1})  # the last one shows how it ended
    frames = []
    for f, front in zip(shown, front_views(scene, rollout, renderer, shown), strict=True):
        past = [c for c in rollout.contacts if c.t_s <= rollout.t_F[f] + 1e-6]
        recent = [c for c in past if rollout.t_F[f] - c.t_s <= HOLD_S]
        struck = tuple(c.agent_id for c in recent)
        picture = np.concatenate([_written_over(front, rollout, f, recent), above.draw(rollout, f, struck)], 1)
        frames.append(picture)
    return _Side(label, frames)


def decision_words(rollout: Rollout, frame: int) -> str:
    """The decision the planner was given at a frame, as the VLM says it; empty if the policy states none."""
    speed, direction = (int(d) for d in rollout.decision_F2[frame])
    words = [SPEED_TEXT[speed]] if speed >= 0 else []
    words += [DIRECTION_TEXT[direction]] if direction >= 0 else []
    return ", ".join(words)


def _written_over(front: Array, rollout: Rollout, frame: int, contacts: Sequence[Contact]) -> Array:
    image = Image.fromarray(front)
    pen = ImageDraw.Draw(image, "RGBA")
    words = decision_words(rollout, frame)
    if words:
        chip(pen, (6, 6), words, 12, DARK)
    v, t = float(rollout.ego_F6[frame, 3]), float(rollout.t_F[frame] - rollout.t_F[0])
    # At the top, since a browser lays its controls over the bottom.
    chip(pen, (6, 28), f"{v:.1f} m/s    {t:.1f} s", 12, DARK)
    if contacts:
        pen.rectangle((0, 0, VIEW_W - 1, VIEW_H - 1), outline=HIT, width=4)
        fault = "COLLISION" if any(c.at_fault for c in contacts) else "COLLISION, not at fault"
        chip(pen, (6, 52), fault, 13, RED)
    return np.asarray(image)


def chip(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, back: tuple[int, ...]) -> None:
    """White words of `size` px on a rounded patch of the colour `back`."""
    font = ImageFont.load_default(size)
    left, _, right, _ = pen.textbbox(at, text, font=font)
    pen.rounded_rectangle((at[0] - 3, at[1] - 2, at[0] + right - left + 4, at[1] + size + 4), 4, fill=back)
    pen.text(at, text, font=font, fill=PAPER)


def _frames(left: _Side, right: _Side, dt: float) -> Iterator[Array]:
    half = VIEW_W + ABOVE_W
    head = Image.new("RGB", (2 * half + GAP, HEAD_H), PAPER)
    pen = ImageDraw.Draw(head)
    for x, side in ((0, left), (half + GAP, right)):
        pen.text((x + 4, 2), side.label, font=ImageFont.load_default(14), fill=INK)
    gap = np.full((VIEW_H, GAP, 3), 255, np.uint8)
    length = max(len(left.frames), len(right.frames)) + round(HOLD_S / dt)
    for f in range(length):
        row = np.concatenate([left.at(f), gap, right.at(f)], 1)
        yield np.concatenate([np.asarray(head), row], 0)


def write_mp4(path: Path, frames: Iterable[Array], fps: float) -> None:
    """(H, W, 3) uint8 frames → H.264, yuv420p, playable anywhere; beside and renamed.

    Raises `InputError` for odd sides or no frame, `OSError` with ffmpeg's words if it fails (a full disk).
    """
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise InputError(f"video {path}: no frame to write")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise InputError(f"video {path}: {width}×{height} px; H.264 needs even sides")
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
    target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(QUALITY), "-threads", "1", *EXACT]
    with written_whole(path) as fresh:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, "-an", *target, str(fresh)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as ffmpeg:
            assert ffmpeg.stdin is not None
            assert ffmpeg.stderr is not None
            try:
                for frame in itertools.chain([first], stream):
                    ffmpeg.stdin.write(np.ascontiguousarray(frame).data)
                ffmpeg.stdin.close()
                words = ffmpeg.stderr.read().decode(errors="replace").strip()
            except BrokenPipeError as error:
                words = ffmpeg.stderr.read().decode(errors="replace").strip()
                raise OSError(f"video {path}: ffmpeg stopped: {words}") from error
            except BaseException:
                ffmpeg.kill()
                raise
        if ffmpeg.returncode != 0:
            raise OSError(f"video {path}: ffmpeg failed: {words}")


def family_video(
    path: Path | str,
    scene: Scene,
    left: Rollout,
    right: Rollout,
    *,
    renderer: Renderer | None = None,
    labels: tuple[str, str] | None = None,
    every: int = 1,
) -> Video:
    """Two drives of one clip side by side, in real time → `path` (mp4).

    `labels`: what stands over them, the policies' names by default. `every`: show each n-th frame only; a frame
    costs about 25 ms of one core a side. Raises `InputError` for drives of different clips or time steps.
    """
    draws = choose_renderer() if renderer is None else renderer
    if every < 1:
        raise InputError(f"video {path}: every = {every}; must be at least 1")
    if left.clip != right.clip:
        raise InputError(f"video {path}: clips '{left.clip}' and '{right.clip}' differ; show one clip")
    if left.dt != right.dt:
        raise InputError(f"video {path}: time steps {left.dt} and {right.dt} s differ; show drives of one clock")
    names = labels or (left.policy, right.policy)
    one, other = (_side(scene, r, draws, n, every) for r, n in zip((left, right), names, strict=True))
    dt = left.dt * every
    write_mp4(Path(path), _frames(one, other, dt), 1 / dt)
    words = "; ".join(f"{n}: {outcome_words(r)}" for n, r in zip(names, (left, right), strict=True))
    return Video(left.family, left.clip, Path(path), f"{names[0]} left, {names[1]} right", words)


def outcome_words(rollout: Rollout) -> str:
    """What happened, in a few words."""
    o = judge(rollout)
    if o.collided:
        first = next((c for c in rollout.contacts if c.at_fault), rollout.contacts[0])
        fault = "" if first.at_fault else ", not at fault"
        return f"collides at {first.t_s - float(rollout.t_F[0]):.1f} s ({first.kind.replace('_', ' ')}{fault})"
    if o.parked:
        return "parks"
    if o.straddled:
        return "straddles lanes"
    return "reaches the end" if o.finished is not False else "stops early"
