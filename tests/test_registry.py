"""What is registered exists; what is not says what does. And where results come from."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os

import pytest

import senna2
from senna2 import registry
from senna2.drivers import ConstantVelocity
from senna2.files import replace_folder, write_json
from senna2.provenance import COMMIT, _commit, provenance
from senna2.types import InputError


@pytest.mark.parametrize("kind", sorted(registry.BUILT_IN))
def test_every_built_in_can_be_loaded(kind):
    for name in registry.BUILT_IN[kind]:
        assert callable(registry.get(kind, name))


def test_an_unknown_kind_or_name_lists_what_exists():
    with pytest.raises(InputError, match="renderers"):
        registry.listing("colours")
    with pytest.raises(InputError, match=r"'gpu'.*'cpu', 'gsplat', 'reference'"):
        registry.get("renderers", "gpu")


def test_policies_come_by_name_or_folder(tmp_path):
    assert isinstance(registry.make_policy("constant_velocity"), ConstantVelocity)
    assert isinstance(registry.make_policy("senna2.drivers:ConstantVelocity"), ConstantVelocity)
    with pytest.raises(InputError, match="cannot be loaded"):
        registry.make_policy("senna2.drivers:NoSuchDriver")
    with pytest.raises(InputError, match="neither a registered policy nor a checkpoint folder"):
        registry.make_policy("no_such_driver")
    with pytest.raises(InputError, match=r"without config\.json"):
        registry.make_policy(str(tmp_path))


@pytest.fixture
def plug_in(monkeypatch):
    def add(name: str, value: str) -> None:
        point = importlib.metadata.EntryPoint(name, value, "senna2.policies")
        known = lambda group: [point] if group == "senna2.policies" else []  # noqa: E731
        monkeypatch.setattr(importlib.metadata, "entry_points", known)

    return add


def test_a_plug_in_is_found(plug_in):
    plug_in("mine", "senna2.drivers:Idm")
    assert "mine" in registry.listing("policies")
    assert type(registry.make_policy("mine")).__name__ == "Idm"


@pytest.mark.parametrize("value", ["no.such.module:X", "senna2.drivers:NoSuchClass"])
def test_a_broken_plug_in_is_named(plug_in, value):
    plug_in("mine", value)
    with pytest.raises(InputError, match="'mine'"):
        registry.make_policy("mine")


def test_provenance_is_json_and_says_what_ran():
    record = provenance(3, stage="1a")
    assert json.loads(json.dumps(record)) == record
    assert (record["senna2"], record["seed"], record["stage"]) == (senna2.__version__, 3, "1a")
    assert {"torch", "numpy"} <= set(record["versions"])


def test_provenance_does_without_git(monkeypatch):
    assert provenance()["commit"] == COMMIT
    monkeypatch.setenv("PATH", "")
    assert _commit() is None


def test_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "results.json"
    write_json(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match=r"results\.json: cannot be written \(No space left"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    old, fresh = tmp_path / "here", tmp_path / "fresh"
    for folder in (old, fresh):
        folder.mkdir()
        (folder / "who").write_text(folder.name)
    real = os.replace

    def fails_for_the_new_one(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if os.fspath(source) == os.fspath(fresh):
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_new_one)
    with pytest.raises(OSError, match="full"):
        replace_folder(fresh, old)
    assert (old / "who").read_text() == "here"
    monkeypatch.setattr(os, "replace", real)
    replace_folder(fresh, old)
    assert (old / "who").read_text() == "fresh"
    assert [p.name for p in tmp_path.iterdir()] == ["here"]
