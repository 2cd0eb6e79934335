"""A real SIGKILL in the middle of a stage: what lies on disk goes on to the same weights, bit by bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import torch

from senna2.train.distributed import Ranks
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1b, run_1b

CONFIG = Stage1b(Optim(steps=9, batch=6, lr=2e-3, checkpoint_every=2, log_every=1), draws=2)


def run(policy, store, out: Path, **more) -> None:
    run_1b(policy, store, CONFIG, out, seed=5, ranks=Ranks(), **more)


def test_killed_and_resumed_equals_unbroken(vlm_folder, make_policy, store, tmp_path):
    child = subprocess.Popen(
        [sys.executable, __file__, str(vlm_folder), str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child, child.stdout as lines:
        for line in lines:
            if line.strip() == "step 4":  # checkpoints lie at 2 and 4 steps; the fifth is lost
                child.send_signal(signal.SIGKILL)
                break
        lines.read()
    assert child.returncode == -signal.SIGKILL
    state = next((tmp_path / "killed" / "checkpoints").glob("step-*/state.json"))
    assert 0 < json.loads(state.read_text())["step"] < CONFIG.optim.steps

    whole, resumed = make_policy(), make_policy()
    run(whole, store, tmp_path / "whole", resume=False)
    run(resumed, store, tmp_path / "killed", resume=True)
    theirs = dict(resumed.named_parameters())
    assert all(torch.equal(p, theirs[n]) for n, p in whole.named_parameters())
    steps = [json.loads(row)["step"] for row in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(CONFIG.optim.steps))


def main(vlm_folder: Path, out: Path) -> None:
    from conftest import small_policy, small_store

    def say(step: int) -> None:
        print(f"step {step}", flush=True)
        if step == 4:
            signal.pause()  # hold still for the kill, so that the test does not depend on who is faster

    torch.set_num_threads(1)
    store = small_store()
    run(small_policy(vlm_folder, store), store, out, resume=False, on_step=say)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
