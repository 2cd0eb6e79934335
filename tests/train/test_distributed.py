"""Two gloo ranks under torchrun give what one rank gives, and none waits for another that has nothing to learn."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from senna2.train import stage2
from senna2.train.distributed import Ranks, start_ranks, stop_ranks
from senna2.train.guards import AlignmentGuards, DrivingGuards, Verdict, off
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1b, run_1b
from senna2.train.stage2 import Stage2, run_2
from senna2.train.stage3 import Stage3, run_3
from senna2.types import Observation, Rig, Rollout

# eps far above float noise: AdamW divides by the gradient's size, so where the true gradient is 0 (keys' biases)
# it would blow the order of summation up to a whole step.
OPTIM = Optim(steps=3, batch=7, lr=1e-3, eps=1e-4, checkpoint_every=2, log_every=1)
CASES = ("1b", "2", "one rank consistent", "nobody learns", "3")


def run_case(case: str, policy, store, out: Path, ranks: Ranks) -> list[dict[str, float]]:
    more = {"seed": 5, "ranks": ranks, "resume": False}
    if case == "3":
        return run_case_3(policy, out, ranks)
    if case == "1b":
        return run_1b(policy, store, Stage1b(OPTIM, draws=2), out, **more)
    # A small weight: with a large one a policy that knows nothing takes steps that double the rounding of every sum.
    config = Stage2(OPTIM, draws=2, shortfall_weight=1e-3, guards=off(AlignmentGuards()))
    if case == "2":
        return run_2(policy, store, config, out, **more)

    if case == "nobody learns":
        config = dataclasses.replace(config, optim=dataclasses.replace(OPTIM, weight_decay=0.1))
    calls = 0

    def all_but_at_first(plan_B: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.full((len(plan_B),), calls > 1)

    def every_second(plan_B: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """What rank 1 of 2 holds is consistent, what rank 0 holds is not; one rank sees both in turn."""
        position = torch.arange(len(plan_B)) * ranks.size + ranks.rank
        return position % 2 == 1

    fake = all_but_at_first if case == "nobody learns" else every_second
    real, stage2.consistency_of = stage2.consistency_of, fake
    try:
        return run_2(policy, store, config, out, **more)
    finally:
        stage2.consistency_of = real


def run_case_3(policy, out: Path, ranks: Ranks) -> list[dict[str, float]]:
    """Only the first rank drives and judges; it leaves a note each time. What others would say is not asked."""

    def note(what: str) -> None:
        with (out / f"{what}.txt").open("a") as file:
            file.write(f"{ranks.rank}\n")

    def collect(*_: object) -> list[Rollout]:
        note("drives")
        drive = Rollout.fake(frames=40)
        seen = [Observation.fake(Rig.fake(), i) if i % 4 == 0 else None for i in range(40)]
        risky = np.where(np.arange(40) % 8 == 0, 1.0, np.inf)
        return [dataclasses.replace(drive, ttc_F=risky, observations=tuple(seen))]

    def judge(*_: object) -> Verdict:
        note("judges")
        return Verdict(ranks.is_main, "the first rank is content", {"progress": 1.0 - ranks.rank})

    out.mkdir(parents=True, exist_ok=True)
    config = Stage3(OPTIM, OPTIM, guards=off(DrivingGuards()))
    return run_3(policy, collect, config, out, judge=judge, seed=5, ranks=ranks, resume=False)


def main(vlm_folder: Path, out: Path) -> None:
    """What each of torchrun's processes does."""
    from conftest import small_policy, small_store

    torch.set_num_threads(1)
    ranks = start_ranks()
    for case in CASES:
        policy = small_policy(vlm_folder, small_store())
        log = run_case(case, policy, small_store(), out / case, ranks)
        weights = {n: p.detach().contiguous() for n, p in policy.named_parameters()}
        save_file(weights, out / f"{case} {ranks.rank}.safetensors")
        (out / f"{case} {ranks.rank}.json").write_text(json.dumps(log))
    stop_ranks()


@pytest.fixture(scope="module")
def by_two(vlm_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__]
    done = subprocess.run(
        [*command, str(vlm_folder), str(out)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one(case, by_two, make_policy, store, tmp_path):
    policy = make_policy()
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    log = run_case(case, policy, store, tmp_path, Ranks())
    for rank in range(2):
        theirs = json.loads((by_two / f"{case} {rank}.json").read_text())
        for ours, other in zip(log, theirs, strict=True):
            assert ours.keys() == other.keys()
            for name in ours.keys() - {"samples_per_s", "waiting_share"}:
                # a gradient is a sum of what cancels: other rows in a product, other last bits, already at step 0
                rel = 5e-4 if name.startswith("grad_norm") else 1e-4
                assert other[name] == pytest.approx(ours[name], rel=rel, abs=1e-6), (name, ours)
    weights = [load_file(by_two / f"{case} {rank}.safetensors") for rank in range(2)]
    for name, p in policy.named_parameters():
        assert torch.equal(weights[0][name], weights[1][name]), name
        torch.testing.assert_close(weights[0][name], p.detach(), rtol=1e-5, atol=1e-3 * OPTIM.lr * OPTIM.steps)
    assert any(n not in before or not torch.equal(p, before[n]) for n, p in policy.named_parameters())


def test_the_consistent_rank_really_had_nothing_to_learn(by_two):
    """Half of 7 samples, rounded down, are rank 1's."""
    log = json.loads((by_two / "one rank consistent 1.json").read_text())
    assert {round(row["consistent"], 6) for row in log} == {round(3 / 7, 6)}
    assert all(row["planning"] > 0 for row in log)


def test_only_the_first_rank_writes(by_two):
    for case in CASES:
        folder = by_two / case / ("round-0/low" if case == "3" else "")
        rows = (folder / "log.jsonl").read_text().splitlines()
        assert [json.loads(r)["step"] for r in rows] == [0, 1, 2]
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-0000003"]


def test_the_first_rank_drives_and_judges_for_all(by_two):
    for what in ("drives", "judges"):
        assert (by_two / "3" / f"{what}.txt").read_text() == "0\n"
    for rank in range(2):
        last = json.loads((by_two / f"3 {rank}.json").read_text())[-1]
        assert (last["fine"], last["tune_progress"]) == (1.0, 1.0)


def test_where_no_rank_learns_neither_momentum_nor_decay_moves_a_weight(by_two):
    """The first step learns; the two after it find only consistent plans."""
    log = json.loads((by_two / "nobody learns 1.json").read_text())
    assert [row["grad_norm"] > 0 for row in log] == [True, False, False]
    state = load_file(by_two / "nobody learns" / "checkpoints" / "step-0000003" / "state.safetensors")
    assert {float(v) for n, v in state.items() if n.startswith("step/")} == {1.0}


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert dataclasses.replace(start_ranks(), device="cpu") == Ranks(0, 1, "cpu")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
