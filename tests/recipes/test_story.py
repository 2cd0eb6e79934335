"""`senna2 run`: what it refuses, the queue it shows, and (slow) a whole study that is then found finished."""

import dataclasses
import json

import pytest

from senna2.cli import main
from senna2.evaluate.results import validate_results
from senna2.recipes.claims import NAMES, validate_claims
from senna2.recipes.results import results, results_tiny
from senna2.recipes.rows import Kept
from senna2.recipes.stages import depends_on
from senna2.recipes.study import BASELINES, FULL, SIDE, plan_study, row_jobs
from senna2.recipes.study_report import a_line_each


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--recipe", "smoke", "--only", "train/*"], "--only, --publish: are for a recipe with a queue"),
        (["--recipe", "smoke", "--jobs"], "--jobs: recipe smoke has no queue"),
        (["--recipe", "smoke", "--limit", "4"], "--limit: is for a recipe with a queue"),
        (["--recipe", "smoke", "--tiny"], "--tiny: is for the recipes results"),
        (["--recipe", "results", "--seed", "3"], "--seed: a study has its own training seeds"),
        (["--recipe", "results", "--jobs", "--only", "nothing"], "--only nothing: matches no job"),
    ],
)
def test_what_does_not_go_together_is_refused(words, why, capsys, tmp_path):
    assert main(["run", "--out", str(tmp_path / "out"), *words]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_strangers_folder_is_not_touched(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["run", "--recipe", "results", "--tiny", "--out", str(tmp_path)]) == 2
    assert "is not empty and not a run of senna2" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "smoke"}))
    assert main(["run", "--recipe", "results", "--tiny", "--out", str(tmp_path)]) == 2
    assert "holds a run of recipe 'smoke'" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_a_run_of_another_recipe_is_not_cleared(tmp_path, capsys):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "hours.txt").write_text("of work")
    (tmp_path / "run.json").write_text(json.dumps({"recipe": "results"}))
    assert main(["run", "--recipe", "smoke", "--out", str(tmp_path)]) == 2
    assert "holds a run of recipe 'results'; choose another folder" in capsys.readouterr().err
    assert (tmp_path / "stages" / "hours.txt").read_text() == "of work"


def test_the_queue_is_listed(tmp_path, capsys):
    assert (
        main(["run", "--recipe", "results", "--jobs", "--json", "--only", "train/1/senna2", "--out", str(tmp_path)])
        == 0
    )
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    names = [j["job"] for j in jobs]
    assert names[-1] == "train/1/senna2"
    assert {"train/1/1a", "train/1/1b", "train/1/senna2@1", "train/1/senna2@2", "clips/tune/0"} <= set(names)
    assert not any(n.startswith(("train/0", "plans", "drives")) for n in names)
    assert all(j["state"] == "waiting" and j["estimate_s"] > 0 for j in jobs)


def test_with_what_is_kept_only_what_is_left_is_listed(tmp_path, capsys):
    queue, kept = plan_study(results(), tmp_path / "out"), Kept(tmp_path / "docs")
    (tmp_path / "row.npz").write_bytes(b"a row")
    for job in (j for j in row_jobs(queue) if j != "rows/1/senna2@1"):
        kept.keep(job, queue.keys[job], tmp_path / "row.npz", {})
    for part in ("1a", "1b"):
        kept.note(f"train/1/{part}", queue.keys[f"train/1/{part}"], {})
    (tmp_path / "docs" / "stages" / "1").mkdir(parents=True)
    (tmp_path / "docs" / "stages" / "1" / "config.json").write_text("{}")
    words = ["run", "--recipe", "results", "--jobs", "--json", "--out", str(tmp_path / "out")]
    assert main([*words, "--publish", str(tmp_path / "docs")]) == 0
    jobs = {j["job"]: j["state"] for j in json.loads(capsys.readouterr().out)["jobs"]}
    assert jobs["rows/1/senna2@1"] == jobs["train/1/senna2@1"] == "waiting"
    assert jobs["train/1/1a"] == jobs["train/1/1b"] == "kept"
    assert not any(j.startswith(("rows/1/senna2@2", "train/1/senna2@2", "train/2/")) for j in jobs)


def test_jobs_may_be_named_one_by_one_or_together(tmp_path, capsys):
    """`--only A --only B` is `--only A B`: the second does not silently take the first one's place."""
    listed = []
    for words in (["--only", "clips/tune/0", "--only", "clips/train/0"], ["--only", "clips/tune/0", "clips/train/0"]):
        assert main(["run", "--recipe", "results", "--jobs", "--json", "--out", str(tmp_path), *words]) == 0
        listed.append([j["job"] for j in json.loads(capsys.readouterr().out)["jobs"]])
    assert listed == [["clips/train/0", "clips/tune/0"]] * 2


def test_a_stage_under_way_does_not_mind_how_later_ones_are_set():
    recipe = results()
    other = dataclasses.replace(
        recipe, stage2=dataclasses.replace(recipe.stage2, gamma=2.0), clips=dataclasses.replace(recipe.clips, test=3)
    )
    assert depends_on(recipe, "1b") == depends_on(other, "1b")
    assert depends_on(recipe, "2") != depends_on(other, "2")
    assert depends_on(recipe, "1b") != depends_on(dataclasses.replace(recipe, seed=5), "1b")


def test_a_longer_test_list_keeps_what_was_driven(tmp_path, capsys):
    """`--limit` grows the study: whole jobs of clips stay as they were."""

    def keys(limit):
        clips = dataclasses.replace(results().clips, test=limit)
        return plan_study(dataclasses.replace(results(), clips=clips), tmp_path).keys

    few, many = keys(120), keys(480)
    assert {n.split("/")[0] for n in few if few[n] != many.get(n)} == {"plans", "rows"}  # spread over all clips
    assert sum(n.startswith("drives/0/senna2/") for n in few) == 2
    assert sum(n.startswith("drives/0/senna2/") for n in many) == 8
    assert main(["run", "--recipe", "results", "--jobs", "--json", "--limit", "120", "--out", str(tmp_path)]) == 0
    jobs = {j["job"] for j in json.loads(capsys.readouterr().out)["jobs"]}
    assert "drives/0/senna2/1" in jobs
    assert "drives/0/senna2/2" not in jobs


def test_each_clip_has_a_line():
    results_json = {"schema": "x", "clips": [{"clip": "a", "v": None}, {"clip": "b", "v": 1.5}]}
    text = a_line_each(results_json)
    assert json.loads(text) == results_json
    assert '{"clip": "a", "v": null},\n{"clip": "b", "v": 1.5}' in text


@pytest.mark.slow
def test_a_tiny_study_from_clips_to_claims(tmp_path, capsys):
    """Ten minutes of one busy core: every job of the queue once, then nothing more to do."""
    out, publish = tmp_path / "out", tmp_path / "docs"
    words = ["run", "--recipe", "results", "--tiny", "--out", str(out), "--workers", "2", "--publish", str(publish)]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "claims:" in first
    results = validate_results(json.loads((publish / "results.json").read_text()))
    assert results["seeds"] == list(results_tiny().seeds)
    assert set(results["policies"]) >= {*BASELINES, *FULL, *SIDE, "senna showcase", "senna2 showcase"}
    for row in (*FULL, *SIDE):
        assert len(results["policies"][row]["open_loop"]["fde_m"]["per_seed"]) == 2
        assert "af_cr" in results["policies"][row]["closed_loop"]
    found = validate_claims(json.loads((publish / "claims.json").read_text()))["claims"]
    assert tuple(found) == NAMES
    assert all(c["n_seeds"] == 2 and not c["held"] for c in found.values())  # three seeds are needed
    figures = {p.name: p.read_bytes() for p in (publish / "figures").iterdir()}
    assert set(figures) == {
        "captions.json", "figure-1.svg", "figure-4.svg", "figure-A1-senna.svg", "figure-A1-senna2.svg",
    }  # fmt: skip
    assert (out / "report.html").read_text().count("<video") == 6
    before = json.loads((out / "queue.json").read_text())
    assert main(words) == 0
    assert json.loads((out / "queue.json").read_text()) == before  # nothing ran again
    # On another machine, with nothing but what was published: nothing is trained or driven, the tables are the same.
    elsewhere = tmp_path / "elsewhere"
    words[words.index(str(out))] = str(elsewhere)
    assert main(words) == 0
    assert not (elsewhere / "stages").exists()
    again = json.loads((publish / "results.json").read_text())
    assert again["policies"] == results["policies"]
    assert again["evidence"] == results["evidence"]
    assert again["clips"] == results["clips"]
    assert {p.name: p.read_bytes() for p in (publish / "figures").iterdir()} == figures
