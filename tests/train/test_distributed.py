"""Two gloo ranks under torchrun give what one rank gives, and none waits for another that has nothing to learn."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from senna2.train import stage2
from senna2.train.distributed import Ranks, start_ranks, stop_ranks
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1b, run_1b
from senna2.train.stage2 import Stage2, run_2

# eps far above float noise: AdamW divides by the gradient's size, so where the true gradient is 0 (keys' biases)
# it would blow the order of summation up to a whole step.
OPTIM = Optim(steps=3, batch=7, lr=1e-3, eps=1e-4, checkpoint_every=2, log_every=1)
CASES = ("1b", "2", "one rank consistent")


def run_case(case: str, policy, store, out: Path, ranks: Ranks) -> list[dict[str, float]]:
    more = {"seed": 5, "ranks": ranks, "resume": False}
    if case == "1b":
        return run_1b(policy, store, Stage1b(OPTIM, draws=2), out, **more)
    config = Stage2(OPTIM, draws=2, least_consistent=0.0)
    if case == "2":
        return run_2(policy, store, config, out, **more)

    def every_second(plan_B: torch.Tensor, *_: object) -> torch.Tensor:
        """What rank 1 of 2 holds is consistent, what rank 0 holds is not; one rank sees both in turn."""
        position = torch.arange(len(plan_B)) * ranks.size + ranks.rank
        return position % 2 == 1

    real, stage2.consistency_of = stage2.consistency_of, every_second
    try:
        return run_2(policy, store, config, out, **more)
    finally:
        stage2.consistency_of = real


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
            for name in ours.keys() - {"samples_per_s", "waiting_share"}:
                assert other[name] == pytest.approx(ours[name], rel=1e-5, abs=1e-7), (name, ours["step"])
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
        rows = (by_two / case / "log.jsonl").read_text().splitlines()
        assert [json.loads(r)["step"] for r in rows] == [0, 1, 2]
        assert [p.name for p in (by_two / case / "checkpoints").iterdir()] == ["step-0000003"]


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert dataclasses.replace(start_ranks(), device="cpu") == Ranks(0, 1, "cpu")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
