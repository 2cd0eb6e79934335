"""The demo plays what it is given, says when it has nothing, and packs weights that fit into the package."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from senna2 import registry
from senna2.cli import main
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.recipes import demo
from senna2.recipes.demo import MOST_BYTES, demo_policies, demo_verb, pack_verb
from senna2.registry import listing, make_policy
from senna2.types import InputError, Rig, Samples
from senna2.world.town.families import SHOWCASE


def _save(folder, rig, *, small=True, adapter="both", planner="dit"):
    torch.set_num_threads(1)
    sizes = {"dim": 32, "blocks": 2, "channels": (8, 8, 16, 16), "agent_queries": 4, "map_queries": 4} if small else {}
    policy = DualSystem(
        PolicyConfig(adapter=adapter, planner=planner, **sizes), rig, vlm=DrivingVLM.tiny(seed=0), seed=0
    )
    policy.fit_planner(Samples.fake(24, rig, seed=3))
    policy.eval().save_pretrained(folder, {"seed": 0})
    return policy


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """What a run leaves: stages/<name>/policy."""
    folder = tmp_path_factory.mktemp("run") / "stages"
    for name, adapter in (("senna", "decision"), ("senna2", "both")):
        _save(folder / name / "policy", Rig.fake(), adapter=adapter)
    return folder


def test_without_weights_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(demo, "packaged", dict)
    assert main(["demo"]) == 2
    assert "no weights are shipped with this version; train some" in capsys.readouterr().err


def test_results_that_are_no_demo_are_left_alone(stages, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"recipe": {"name": "laptop"}}))
    assert main(["demo", "--weights", str(stages), "--out", str(tmp_path)]) == 2
    assert "is not empty and not a demo of senna2" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_who_drives(stages, tmp_path):
    pair = demo_policies(stages)
    assert list(pair) == ["senna", "senna2"]
    assert pair["senna2"].endswith("senna2/policy")
    assert list(demo_policies(stages / "senna2")) == ["expert", "senna2"]
    with pytest.raises(InputError, match="holds neither a checkpoint"):
        demo_policies(tmp_path)


def test_packed_weights_are_found_by_name_and_plan_alike(stages, tmp_path, monkeypatch):
    done = pack_verb(stages, tmp_path / "weights")
    whole = sum(f.stat().st_size for f in (stages / "senna2").rglob("*.safetensors"))
    halved = sum(f.stat().st_size for f in (tmp_path / "weights" / "senna2").rglob("*.safetensors"))
    assert halved < 0.55 * whole
    assert done["senna2"] < MOST_BYTES
    monkeypatch.setattr(registry, "packaged", lambda: {n: tmp_path / "weights" / n for n in ("senna", "senna2")})
    monkeypatch.setattr(demo, "packaged", registry.packaged)
    assert {"senna", "senna2"} <= set(listing("policies"))
    assert list(demo_policies(None)) == ["senna", "senna2"]
    samples = Samples.fake(3, Rig.fake())
    packed, own = make_policy("senna2"), make_policy(str(stages / "senna2" / "policy"))
    assert next(packed.parameters()).dtype == next(packed.vlm.parameters()).dtype == torch.float32
    np.testing.assert_allclose(
        packed.plan_batch(samples).points_NT2, own.plan_batch(samples).points_NT2, atol=0.02
    )  # fmt: skip


def test_weights_too_large_are_refused(stages, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="the package holds 16"):
        pack_verb(stages, tmp_path / "weights")
    with pytest.raises(InputError, match="holds no checkpoint of senna"):
        pack_verb(tmp_path, tmp_path / "weights")


def test_the_shipped_weights_load_by_name_and_drive_the_default_rig():
    """They are those that the published rows were measured with: a policy of the package, for every user."""
    package = Path(registry.__file__).parent
    shipped = {name: folder for name, folder in registry.packaged().items() if folder.is_relative_to(package)}
    assert list(shipped) == ["senna", "senna2"]
    assert sum(f.stat().st_size for folder in shipped.values() for f in folder.rglob("*") if f.is_file()) < MOST_BYTES
    samples = Samples.fake(2, Rig.default())
    for name, adapter in (("senna", "decision"), ("senna2", "both")):
        policy = make_policy(name)
        assert policy.config.adapter == adapter
        assert np.isfinite(policy.plan_batch(samples).points_NT2).all()
        origin = json.loads((shipped[name] / "provenance.json").read_text())
        assert origin["commit"]
        assert not any(word.startswith(("/", "~")) for word in origin["command"].split())


def test_a_checkout_knows_the_systems_of_the_tables_by_name(tmp_path, monkeypatch):
    (tmp_path / "src" / "senna2").mkdir(parents=True)
    _save(tmp_path / "docs" / "results" / "weights" / "vad", Rig.default(), planner="vad", adapter="none")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "src" / "senna2" / "registry.py"))
    assert registry.listing("policies")["vad"] == "results/weights/vad"
    assert make_policy("vad").config.planner == "vad"


@pytest.mark.slow
def test_weights_of_the_default_size_fit_and_play(tmp_path):
    for name, adapter in (("senna", "decision"), ("senna2", "both")):
        _save(tmp_path / "stages" / name / "policy", Rig.default(), small=False, adapter=adapter)
    pack_verb(tmp_path / "stages", tmp_path / "weights")  # raises if they are too large
    demo_verb(tmp_path / "weights", tmp_path / "out", workers=2)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {r["family"] for r in results["clips"]} == set(SHOWCASE)
    assert all((tmp_path / "out" / r["video"]).is_file() for r in results["clips"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<video") == 6
    assert len(page) < 25 * 2**20
