"""What other tools will read: the formats as they document them, the frames bit for bit, nothing without a label."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from senna2.cli import build_parser, main
from senna2.data.export import FORMATS, export, usable
from senna2.data.qa import KINDS, QUESTIONS
from senna2.data.store import SampleStore, write_part
from senna2.data.summary import summary
from senna2.types import InputError, Rig, Samples

SYSTEM = "Decide."


def ask(samples: Samples, i: int, question: str) -> str:
    return f"speed {samples.motion_N4[i, 0]:.1f}. {question}".strip()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SampleStore:
    """Two parts of six: of each one is UNKNOWN, one forced."""
    folder = tmp_path_factory.mktemp("samples")
    for name, seed in (("a", 0), ("b", 1)):
        s = Samples.fake(6, Rig.fake(), seed)
        speed, forced = s.speed_N.copy(), s.counterfactual_N.copy()
        speed[2], forced[4] = -1, True
        direction = np.array([0, 1, 2, 3, 4, 0], np.int8)
        s = dataclasses.replace(s, speed_N=speed, counterfactual_N=forced, direction_N=direction)
        write_part(folder, name, dataclasses.replace(s, clips=(name,), families=(f"family_{name}",)))
    return SampleStore(folder)


def rows_of(out: Path, form: str) -> list[dict[str, Any]]:
    """The rows as (system, user, answer, image), whatever the format."""
    name = {"llamafactory": "senna2.json", "swift": "senna2.jsonl", "trl": "train.jsonl"}[form]
    text = (out / name).read_text()
    raw = json.loads(text) if form == "llamafactory" else [json.loads(line) for line in text.splitlines()]
    rows = []
    for row in raw:
        assert len(row["images"]) == 1
        turns = row["messages"] if form != "trl" else [*row["prompt"], *row["completion"]]
        assert [t["role"] for t in turns] == ["system", "user", "assistant"]
        user = turns[1]["content"]
        if form == "trl":
            assert "<image>" not in user
            assert set(row) == {"images", "prompt", "completion"}
        else:  # one placeholder an image, where the image comes
            assert set(row) == {"images", "messages"}
            assert user.count("<image>") == 1
            assert user.startswith("<image>")
            user = user.removeprefix("<image>")
        rows.append(
            {"system": turns[0]["content"], "user": user, "answer": turns[2]["content"], "image": row["images"][0]}
        )
    return rows


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_holds_the_same(store: SampleStore, tmp_path: Path, form: str) -> None:
    done = export(store, tmp_path / "x", form, system=SYSTEM, ask=ask)
    rows = rows_of(tmp_path / "x", form)
    index = usable(store.states)
    assert index.tolist() == [0, 1, 3, 5, 6, 7, 9, 11]
    assert done["frames"] == done["rows"] == len(rows) == 8
    assert done["kinds"] == {"decision": 8}
    assert [r["answer"] for r in rows[:4]] == [
        "ACCELERATE, GO STRAIGHT", "DECELERATE, TURN LEFT", "ACCELERATE, CHANGE LANE LEFT", "KEEP SPEED, GO STRAIGHT",
    ]  # fmt: skip
    batch = store.take(index)
    for i, row in enumerate(rows):
        assert row["system"] == SYSTEM
        assert row["user"] == ask(batch, i, "")
        with Image.open(tmp_path / "x" / row["image"]) as image:
            seen = np.asarray(image)
        assert np.array_equal(seen, batch.images["front"][i, -1])  # the newest frame, without loss
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]  # no temporary left


def test_llamafactory_finds_its_columns(store: SampleStore, tmp_path: Path) -> None:
    export(store, tmp_path / "x", "llamafactory", system=SYSTEM, ask=ask)
    (entry,) = json.loads((tmp_path / "x" / "dataset_info.json").read_text()).values()
    assert (tmp_path / "x" / entry["file_name"]).is_file()
    row = json.loads((tmp_path / "x" / entry["file_name"]).read_text())[0]
    assert entry["formatting"] == "sharegpt"
    assert set(entry["columns"].values()) == set(row)
    tags = entry["tags"]
    assert [t[tags["role_tag"]] for t in row["messages"]] == [tags[f"{r}_tag"] for r in ("system", "user", "assistant")]
    assert all(tags["content_tag"] in t for t in row["messages"])


def test_other_kinds_share_the_frame(store: SampleStore, tmp_path: Path) -> None:
    done = export(store, tmp_path / "x", "swift", system=SYSTEM, ask=ask, kinds=KINDS, seed=2)
    rows = rows_of(tmp_path / "x", "swift")
    assert done["kinds"]["decision"] == done["kinds"]["scene"] == 8
    assert len({r["image"] for r in rows}) == len(list((tmp_path / "x" / "images").iterdir())) == 8
    scenes = [r for r in rows if r["user"].split(". ", 1)[-1] in QUESTIONS["scene"]]
    assert len(scenes) == 8
    assert all("car" in r["answer"] for r in scenes)
    export(store, tmp_path / "y", "swift", system=SYSTEM, ask=ask, kinds=KINDS, seed=2)
    assert rows_of(tmp_path / "y", "swift") == rows


def test_limit_and_jpeg(store: SampleStore, tmp_path: Path) -> None:
    done = export(store, tmp_path / "x", "trl", system=SYSTEM, ask=ask, encoding="jpg", limit=3)
    images = sorted((tmp_path / "x" / "images").iterdir())
    assert done["frames"] == len(images) == 3
    assert all(p.read_bytes()[:2] == b"\xff\xd8" for p in images)


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"form": "yaml"}, "yaml"), ({"kinds": ("weather",)}, "weather"), ({"encoding": "gif"}, "gif")],
)
def test_bad_use_is_named(store: SampleStore, tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        export(store, tmp_path / "x", **{"form": "trl", "system": SYSTEM, "ask": ask, **changes})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_not_touched(store: SampleStore, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        export(store, tmp_path, "trl", system=SYSTEM, ask=ask)
    assert (tmp_path / "mine").read_text() == "x"


def test_nothing_to_export(tmp_path: Path) -> None:
    s = Samples.fake(2, Rig.fake())
    write_part(tmp_path / "s", "a", dataclasses.replace(s, speed_N=np.full(2, -1, np.int8)))
    with pytest.raises(InputError, match="no sample has a known decision"):
        export(SampleStore(tmp_path / "s"), tmp_path / "x", "trl", system=SYSTEM, ask=ask)


def test_summary(store: SampleStore) -> None:
    told = summary(store)
    assert told["samples"] == 12
    assert told["clips"] == 2
    assert told["forced"] == 2
    assert told["unknown_speed_share"] == 0.2  # 2 of the 10 that were not forced
    assert told["unknown_direction_share"] == 0.0
    assert told["speed"] == {"ACCELERATE": 4, "DECELERATE": 2, "KEEP SPEED": 2, "STOP": 0}
    assert told["direction"]["CHANGE LANE LEFT"] == 2
    assert told["family"] == {"family_a": 6, "family_b": 6}
    assert told["images"]["front"][-1] == 3
    json.dumps(told)


def test_the_command_line(store: SampleStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(store.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 12
    line = ["data", "export", "--format", "llamafactory", "--data", str(store.folder), "--out", str(tmp_path / "x")]
    assert main([*line, "--kinds", "scene", "lights", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"]["lights"] == 8
    row = json.loads((tmp_path / "x" / "senna2.json").read_text())[0]
    assert "Answer: speed, direction." in row["messages"][0]["content"]  # the prompt of stage 1a
    assert row["messages"][1]["content"].startswith("<image>navigation GO STRAIGHT, speed ")
    assert main(line) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["data", "inspect", str(tmp_path / "nowhere")]) == 2
    everything = build_parser().parse_args([*line, "--kinds", *KINDS])
    assert everything.kinds == list(KINDS)
