"""The queue keeps what is finished, makes again what is stale, goes on after crashes, and says what failed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from senna2.recipes import queue
from senna2.recipes.queue import Job, Queue, QueueError, alone_in, run_queue
from senna2.types import InputError

RAN = "ran.txt"


def append(folder: Path, name: str, fail: str = "") -> None:
    """A job that leaves a file and a line; it fails while the file `fail` exists."""
    with (folder / RAN).open("a") as file:
        file.write(f"{name} ")
    if fail and (folder / fail).exists():
        raise ValueError("not today")
    (folder / name).write_text(name)


def slow(folder: Path) -> None:
    (folder / "begun").write_text("")
    time.sleep(60)


def nap(file: Path) -> None:
    time.sleep(1.5)
    file.write_text("")


def _jobs(folder: Path, setting: int = 1, fail: str = "") -> list[Job]:
    def job(name, needs=(), settings=None, fail=""):
        return Job(name, append, (folder, name, fail), (folder / name,), settings, needs, 1.0)

    return [job("a", settings=setting), job("b", fail=fail), job("c", ("a",)), job("d", ("b", "c"))]


def _run(folder: Path, jobs, only=(), side_by_side=0) -> list[str]:
    said: list[str] = []
    run_queue(Queue.of(folder, jobs), side_by_side=side_by_side, only=only, tell=said.append)
    return said


def _ran(folder: Path) -> list[str]:
    done = (folder / RAN).read_text().split() if (folder / RAN).exists() else []
    (folder / RAN).unlink(missing_ok=True)
    return done


def test_jobs_run_in_order_and_once(tmp_path):
    said = _run(tmp_path, _jobs(tmp_path))
    assert _ran(tmp_path) == ["a", "b", "c", "d"]
    assert said[0] == "queue: 0 of 4 jobs are finished"
    assert "100% of the work" in said[-1]
    _run(tmp_path, _jobs(tmp_path))
    assert _ran(tmp_path) == []
    assert set(Queue.of(tmp_path, _jobs(tmp_path)).seconds()) == set("abcd")


def test_another_setting_makes_stale_what_depends_on_it(tmp_path):
    _run(tmp_path, _jobs(tmp_path))
    _ran(tmp_path)
    queue = Queue.of(tmp_path, _jobs(tmp_path, setting=2))
    assert {r["job"]: r["state"] for r in queue.listing()} == {"a": "stale", "b": "done", "c": "stale", "d": "stale"}
    run_queue(queue, side_by_side=0, tell=lambda _: None)
    assert _ran(tmp_path) == ["a", "c", "d"]


def test_a_lost_output_is_made_again(tmp_path):
    _run(tmp_path, _jobs(tmp_path))
    _ran(tmp_path)
    (tmp_path / "c").unlink()
    _run(tmp_path, _jobs(tmp_path))
    assert _ran(tmp_path)[0] == "c"


@pytest.mark.parametrize("side_by_side", [0, 2])
def test_a_failed_job_holds_up_only_those_that_need_it(tmp_path, side_by_side):
    (tmp_path / "broken").write_text("")
    with pytest.raises(QueueError, match="2 jobs did not finish") as error:
        _run(tmp_path, _jobs(tmp_path, fail="broken"), side_by_side=side_by_side)
    assert "b: ValueError: not today" in str(error.value)
    assert "d: needs ['b']" in str(error.value)
    assert set(_ran(tmp_path)) == {"a", "b", "c"}
    (tmp_path / "broken").unlink()
    _run(tmp_path, _jobs(tmp_path, fail="broken"), side_by_side=side_by_side)
    assert _ran(tmp_path) == ["b", "d"]


def test_what_a_stale_job_would_keep_goes_with_its_outputs(tmp_path):
    def job(setting: int) -> Job:
        return Job("a", append, (tmp_path, "a"), (tmp_path / "a",), setting, clears=(tmp_path / "samples",))

    (tmp_path / "samples").mkdir()
    _run(tmp_path, [job(1)])
    assert not (tmp_path / "samples").exists()
    (tmp_path / "samples").mkdir()
    _run(tmp_path, [job(1)])
    assert (tmp_path / "samples").exists()
    _run(tmp_path, [job(2)])
    assert not (tmp_path / "samples").exists()


def test_an_output_that_vanishes_ends_the_queue(tmp_path):
    def vanish(said: str) -> None:
        if "done c" in said:
            (tmp_path / "b").unlink()

    with pytest.raises(QueueError, match=r"d: needs \['b'\], whose output is gone"):
        run_queue(Queue.of(tmp_path, _jobs(tmp_path)), side_by_side=1, tell=vanish)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with alone_in(tmp_path / "new"), pytest.raises(InputError, match="another run is at work there"), \
            alone_in(tmp_path / "new"):  # fmt: skip
        pass
    with alone_in(tmp_path / "new"):
        pass


def test_only_takes_what_is_needed_along(tmp_path):
    _run(tmp_path, _jobs(tmp_path), only=["c*"])
    assert _ran(tmp_path) == ["a", "c"]
    with pytest.raises(InputError, match="--only x: matches no job"):
        _run(tmp_path, _jobs(tmp_path), only=["x"])


def test_a_job_without_its_output_has_failed(tmp_path):
    job = Job("a", append, (tmp_path, "a"), (tmp_path / "other",))
    with pytest.raises(QueueError, match="left no"):
        _run(tmp_path, [job])


def test_needs_come_first_and_names_once(tmp_path):
    a, _, c, _ = _jobs(tmp_path)
    with pytest.raises(InputError, match="must come before"):
        Queue.of(tmp_path, [c, a])
    with pytest.raises(InputError, match="two jobs are named 'a'"):
        Queue.of(tmp_path, [a, a])
    (tmp_path / "queue.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(InputError, match=r"is no 'senna2\.queue/1'"):
        Queue.of(tmp_path, [a])


INTERRUPTED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_queue import slow
from senna2.recipes import queue
from senna2.recipes.queue import Job, Queue, run_queue
if __name__ == "__main__":
    folder = Path({folder!r})
    run_queue(Queue.of(folder, [Job("s", slow, (folder,), (folder / "s",))]), side_by_side=2)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_or_a_kill_ends_the_job_and_keeps_the_queue(tmp_path, how):
    code = INTERRUPTED.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        for _ in range(300):
            if (tmp_path / "begun").exists():
                break
            time.sleep(0.1)
        assert (tmp_path / "begun").exists()
        assert _alive(tmp_path) or not Path("/proc").is_dir()  # else what follows says nothing
        process.send_signal(how)
        _, error = process.communicate(timeout=20)
        for _ in range(100):
            if not _alive(tmp_path):
                break
            time.sleep(0.1)
    finally:
        process.kill()
    assert how == signal.SIGKILL or b"KeyboardInterrupt" in error
    assert json.loads((tmp_path / "queue.json").read_text())["jobs"]["s"]["state"] == "running"
    assert not _alive(tmp_path)


def _alive(folder: Path) -> list[Path]:
    """Processes that have the job's log open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd).startswith(str(folder / "logs")) for fd in (process / "fd").iterdir()):
                found.append(process)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("side_by_side", [0, 2])
def test_what_a_job_costs_is_the_time_of_its_processor_and_not_of_the_clock(tmp_path, side_by_side):
    job = Job("nap", nap, (tmp_path / "nap",), (tmp_path / "nap",))
    _run(tmp_path, [job], side_by_side=side_by_side)
    queue = Queue.of(tmp_path, [job])
    known = queue.state["nap"]
    assert known["seconds"] >= 1.5
    assert known["cpu_seconds"] <= known["seconds"] - 1.0  # it slept
    assert queue.seconds() == {"nap": known["cpu_seconds"]}
    del known["cpu_seconds"]  # as a queue of before
    assert queue.seconds() == {"nap": known["seconds"]}


def test_what_an_interrupted_job_had_cost_is_added(tmp_path):
    """Its queue was killed: the child had left on disk what it had spent. A job that begins anew forgets it."""
    job = Job("nap", nap, (tmp_path / "nap",), (tmp_path / "nap",))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "nap.cpu").write_text("700.0")
    Queue.of(tmp_path, [job]).note("nap", state="running")
    _run(tmp_path, [job], side_by_side=1)
    assert 700 < Queue.of(tmp_path, [job]).seconds()["nap"] < 760
    (tmp_path / "nap").unlink()
    _run(tmp_path, [job], side_by_side=1)
    assert Queue.of(tmp_path, [job]).seconds()["nap"] < 60


def test_a_job_tells_what_it_spends_while_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "KEEP_TIME_S", 0.01)
    over = threading.Event()
    thread = threading.Thread(target=queue._keep_time, args=(tmp_path / "job.cpu", 700.0, over))
    thread.start()
    for _ in range(500):
        if (tmp_path / "job.cpu").exists():
            break
        time.sleep(0.01)
    over.set()
    thread.join()
    assert queue._spent(tmp_path / "job.cpu") > 700
