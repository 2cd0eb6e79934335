"""`senna2 eval control` from policy to results.json: who listens, who does not, and who has no VLM."""

import dataclasses

import numpy as np

from senna2.evaluate.metrics import CONTROL
from senna2.instructions import WISHES
from senna2.recipes.instructed import plan_instructed
from senna2.recipes.measure import collect_results, measure
from senna2.types import PLAN_DT, PLAN_STEPS, Plans, Samples, VehicleShape

ASKS = {text: wish.asks for wish in WISHES for text in wish.texts}
T = PLAN_DT * np.arange(1, PLAN_STEPS + 1)


class Driver:
    """Constant speed; if it listens, a tenth more or less, and a third of a metre to the side. `vlm`: takes words."""

    vlm = "something"

    def __init__(self, *, listens: bool) -> None:
        self.listens = listens

    def reset(self, meta, seed) -> None: ...

    def act(self, observation):
        raise AssertionError("has plan_batch")

    def plan_batch(self, samples: Samples, decision=None, seed: int = 0) -> Plans:
        asked = [ASKS[text] if text and self.listens else "" for text in samples.instruction_N]
        speed = np.array([{"faster": 1.1, "slower": 0.9}.get(a, 1.0) for a in asked]) * samples.motion_N4[:, 0]
        side = np.array([{"left": 0.3, "right": -0.3}.get(a, 0.0) for a in asked])
        points = np.stack([speed[:, None] * T, side[:, None] * T / T[-1]], -1).astype(np.float32)
        none = np.full(len(samples), -1, np.int8)
        return Plans(points, none, none, none, none)


class Deaf(Driver):
    """A policy without a VLM."""

    vlm = None


def obedient():
    return Driver(listens=True)


def ignorant():
    return Driver(listens=False)


def without_vlm():
    return Deaf(listens=True)


def test_control_tells_who_listens():
    samples = dataclasses.replace(Samples.fake(12, seed=1), index_N=np.arange(12))
    shapes = dict.fromkeys(samples.clips, VehicleShape())
    specs = {"obedient": obedient, "ignorant": ignorant, "deaf": without_vlm}
    for suites in (("control",), ("open", "control")):
        done = measure(
            specs, suites=suites, clips=[], samples=samples, shapes=shapes, control_samples=10, seed=4, workers=0
        )
        results = collect_results(done, recipe={"name": "test"}, seeds=[4], pairs=[])
        rows = {name: policy["control"] for name, policy in results["policies"].items()}
        assert all(set(row) == set(CONTROL) for row in rows.values())
        followed = {name: row["instruction_followed"] for name, row in rows.items()}
        assert (followed["obedient"]["value"], followed["obedient"]["n"]) == (1.0, 40)
        assert followed["ignorant"]["value"] == 0.0
        assert followed["deaf"]["value"] is None
        assert followed["deaf"]["note"] == "the policy has no VLM"


def test_every_sentence_is_said():
    heard = []

    class Listener(Driver):
        def plan_batch(self, samples, decision=None, seed=0):
            heard.extend(samples.instruction_N)
            return super().plan_batch(samples, decision, seed)

    plan_instructed(Listener(listens=True), Samples.fake(12), seed=0)
    assert set(heard) == {"", *ASKS}
