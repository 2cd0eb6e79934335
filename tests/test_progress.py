"""A log is not filled by a bar that moves every second."""

import sys

import pytest

from senna2.progress import LOG_S, TERMINAL_S, progress_bar


@pytest.mark.parametrize(("terminal", "every_s"), [(True, TERMINAL_S), (False, LOG_S)])
def test_the_bar_moves_often_on_a_terminal_and_seldom_in_a_log(terminal, every_s, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress_bar(range(3)) as bar:
        assert bar.mininterval == every_s
        assert bar.maxinterval >= every_s
        assert list(bar) == [0, 1, 2]
