import pytest
import torch

from senna2.model.config import PolicyConfig
from senna2.model.planners.dit import DiT

B, D, S, C = 3, 2, 7, 32


def _dit(coefficients: int = 6, group: int = 1, trained: bool = False, **kw) -> DiT:
    torch.manual_seed(0)
    settings = {"dim": C, "heads": 2, "blocks": 2, "mlp_ratio": 2, "speed_limit_input": True} | kw
    plan = {"modes": coefficients} if group == 1 else {"basis": "points", "points_per_token": group}
    dit = DiT(PolicyConfig(**plan, **settings))
    if trained:  # away from the zeros of the initialisation, except where F_vlm enters
        for name, p in dit.named_parameters():
            if not name.startswith("f_vlm"):
                torch.nn.init.normal_(p, std=0.2)
    return dit


def _inputs(coefficients: int = 6) -> dict:
    g = torch.Generator().manual_seed(1)
    return {
        "x_BDK2": torch.randn(B, D, coefficients, 2, generator=g),
        "t_BD": torch.randint(0, 1000, (B, D), generator=g),
        "scene_BSC": torch.randn(B, S, C, generator=g),
        "valid_BS": None,
        "motion_B4": torch.tensor([[8.0, 0, 0, 0], [0, 0, 0, 0], [12, -2, 0.1, 0.05]]),
        "navigation_B": torch.tensor([0, 1, -1]),
        "speed_limit_B": torch.tensor([8.3, 13.9, float("nan")]),
        "f_vlm_BC": torch.randn(B, C, generator=g),
    }


@pytest.mark.parametrize(("coefficients", "group"), [(6, 1), (30, 3), (30, 5)])
def test_shapes_and_the_zero_start(coefficients, group):
    out = _dit(coefficients, group)(**_inputs(coefficients))
    assert out.shape == (B, D, coefficients, 2)
    assert (out == 0).all()  # the x0-planner starts as the inertial reference


def test_a_fresh_adapter_changes_nothing_on_a_trained_planner_but_learns():
    dit, inputs = _dit(trained=True), _inputs()
    base = dit(**inputs)
    assert base.abs().mean() > 0.1
    torch.testing.assert_close(dit(**(inputs | {"f_vlm_BC": 100 * inputs["f_vlm_BC"]})), base, rtol=0, atol=0)
    torch.testing.assert_close(dit(**(inputs | {"f_vlm_BC": None})), base, rtol=0, atol=0)
    base.pow(2).sum().backward()
    assert dit.f_vlm.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("t_BD", lambda x: (x + 100) % 1000),
        ("scene_BSC", lambda x: x.flip(1) * 1.5),
        ("motion_B4", lambda x: x + 0.5),
        ("navigation_B", lambda x: (x + 1) % 5),
        ("speed_limit_B", lambda x: torch.nan_to_num(x, nan=3.0) + 2),
    ],
)
def test_every_input_reaches_the_output(name, change):
    dit, inputs = _dit(trained=True), _inputs()
    moved = (dit(**inputs) - dit(**(inputs | {name: change(inputs[name])}))).abs().flatten(1).max(1).values
    assert (moved > 1e-4).all()


def test_the_speed_limit_can_be_switched_off():
    dit, inputs = _dit(trained=True, speed_limit_input=False), _inputs()
    other = inputs | {"speed_limit_B": torch.full((B,), 30.0)}
    assert torch.equal(dit(**inputs), dit(**other))


@pytest.mark.parametrize(("inputs", "told"), [("speed", False), ("all", True)])
def test_what_the_car_does_already_is_an_input_only_on_request(inputs, told):
    dit, given = _dit(trained=True, motion_input=inputs), _inputs()
    other = given["motion_B4"].clone()
    other[:, 1:] += torch.tensor([1.0, 0.2, 0.1])
    assert torch.equal(dit(**given), dit(**(given | {"motion_B4": other}))) != told


def test_draws_share_a_scene_and_nothing_else():
    dit, inputs = _dit(trained=True), _inputs()
    both = dit(**inputs)
    one = dit(**(inputs | {"x_BDK2": inputs["x_BDK2"][:, 1:], "t_BD": inputs["t_BD"][:, 1:]}))
    torch.testing.assert_close(both[:, 1:], one, atol=1e-5, rtol=1e-4)


def test_masked_scene_tokens_are_not_seen():
    dit, inputs = _dit(trained=True), _inputs()
    valid = torch.tensor([True] * 4 + [False] * 3).expand(B, S)
    hidden = inputs["scene_BSC"].clone()
    hidden[:, 4:] = 99.0
    a, b = dit(**(inputs | {"valid_BS": valid})), dit(**(inputs | {"valid_BS": valid, "scene_BSC": hidden}))
    assert torch.equal(a, b)
    short = dit(**(inputs | {"scene_BSC": inputs["scene_BSC"][:, :4]}))
    torch.testing.assert_close(a, short, atol=1e-5, rtol=1e-4)
