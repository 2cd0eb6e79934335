"""Config ↔ JSON is exact, strict, and names the field."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import pytest

from senna2.config import diff, fingerprint, from_dict, later, load_json, to_dict
from senna2.types import InputError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[float, str] = (1.0, "m")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    either: int | str = 1
    flag: bool = False
    more: dict[str, Inner] = dataclasses.field(default_factory=dict)


GOOD = Outer("x", Inner(0.5, (3,)), "b", 4, "seven", True, {"k": Inner()})


def test_round_trip_through_json_text():
    assert from_dict(Outer, json.loads(json.dumps(to_dict(GOOD)))) == GOOD


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("name",), 3, r"config\.name: expected str"),
        (("inner", "rate"), "fast", r"config\.inner\.rate: expected float"),
        (("inner", "rate"), True, r"config\.inner\.rate"),
        (("inner", "sizes"), 3, r"config\.inner\.sizes: expected a list"),
        (("inner", "sizes"), [1, "2"], r"config\.inner\.sizes\[1\]"),
        (("inner", "pair"), [1.0], r"config\.inner\.pair: expected 2 values, got 1"),
        (("inner", "colour"), 3, r"config\.inner\.colour: unknown"),
        (("inner",), [], r"config\.inner: expected an object"),
        (("kind",), "c", r"config\.kind: 'c' is none of"),
        (("limit",), 0.5, r"config\.limit"),
        (("limit",), False, r"config\.limit"),
        (("either",), 1.5, r"config\.either"),
        (("more",), [], r"config\.more: expected an object"),
        (("more",), {"k": {}}, r"config\.more\.k: lacks"),
    ],
)
def test_a_wrong_field_is_named(path, value, named):
    data = to_dict(GOOD)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=named):
        from_dict(Outer, data)


def test_a_missing_field_is_named_even_if_it_has_a_default():
    data = to_dict(GOOD)
    del data["inner"]["rate"]
    with pytest.raises(InputError, match=r"config\.inner: lacks \['rate'\]"):
        from_dict(Outer, data)


def test_an_int_passes_as_float_and_becomes_one():
    data = to_dict(GOOD)
    data["inner"]["rate"] = 2
    assert isinstance(from_dict(Outer, data).inner.rate, float)


def test_diff_is_empty_for_equals_and_names_what_differs():
    assert diff(GOOD, GOOD) == {}
    other = dataclasses.replace(GOOD, limit=None, inner=Inner(0.5, (3, 4)))
    assert diff(GOOD, other) == {"limit": (4, None), "inner.sizes": ([3], [3, 4])}


def test_fingerprint_changes_with_any_field_and_only_then():
    assert fingerprint(GOOD) == fingerprint(from_dict(Outer, to_dict(GOOD)))
    assert fingerprint(GOOD) != fingerprint(dataclasses.replace(GOOD, flag=False))


def test_only_json_values_are_taken():
    with pytest.raises(TypeError, match="set"):
        to_dict({"a": {1, 2}})


def test_json_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: file is missing"):
        load_json(tmp_path / "none.json")
    bad = tmp_path / "bad.json"
    bad.write_text('{"a": ')
    with pytest.raises(InputError, match=r"bad\.json: not valid JSON"):
        load_json(bad)
    bad.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.json: not valid JSON"):
        load_json(bad)


@dataclass(frozen=True)
class Grown(Inner):
    """`Inner`, with fields that came later."""

    kind: str = later("plain")
    more: dict[str, int] = later({})


def test_what_was_written_before_a_field_existed_stays_valid():
    """Neither a file nor a fingerprint of the time changes, and both mean what they meant."""
    assert from_dict(Grown, to_dict(Inner())) == Grown()
    assert fingerprint(Grown()) == fingerprint(Inner())
    grown = Grown(kind="other", more={"a": 1})
    assert from_dict(Grown, json.loads(json.dumps(to_dict(grown)))) == grown
    assert fingerprint(grown) != fingerprint(Inner())
    assert diff(grown, Grown())["kind"] == ("other", None)
    with pytest.raises(InputError, match=r"config: lacks \['rate'\]"):
        from_dict(Grown, {"sizes": [1], "pair": [1.0, "m"]})
