import dataclasses

import pytest
import torch

from senna2.model.adapter import MODES, DecisionAdapter, pooled_hidden
from senna2.model.config import PolicyConfig
from senna2.model.planners.dit import DiT
from senna2.model.vlm.qwen import DrivingVLM
from senna2.types import Camera, InputError, Rig, Samples

SPEED, DIRECTION = torch.tensor([0, 3, -1]), torch.tensor([4, -1, 0])


@pytest.mark.parametrize("mode", MODES)
def test_what_each_mode_reads(mode):
    torch.manual_seed(0)
    adapter = DecisionAdapter(16, 8, mode)
    hidden = torch.randn(3, 16)
    base = adapter(hidden, SPEED, DIRECTION)
    assert base.shape == (3, 8)
    moved_hidden = not torch.allclose(base, adapter(hidden.flip(0), SPEED, DIRECTION))
    moved_speed = not torch.allclose(base, adapter(hidden, (SPEED + 1) % 4, DIRECTION))
    moved_direction = not torch.allclose(base, adapter(hidden, SPEED, (DIRECTION + 1) % 5))
    assert moved_hidden == (mode in ("vlm", "both"))
    assert moved_speed == moved_direction == (mode in ("decision", "both"))
    if mode == "none":
        assert (base == 0).all()


def test_missing_hidden_and_unknown_categories_are_learned_nulls():
    adapter = DecisionAdapter(16, 8, "both")
    hidden = torch.randn(3, 16)
    none = adapter(None, SPEED, DIRECTION)
    masked = adapter(hidden, SPEED, DIRECTION, torch.tensor([True, False, False]))
    torch.testing.assert_close(masked[1:], none[1:])
    torch.testing.assert_close(masked[0], adapter(hidden, SPEED, DIRECTION)[0])
    null = adapter(None, torch.tensor([-1]), torch.tensor([-1]))
    assert not torch.allclose(null, adapter(None, torch.tensor([3]), torch.tensor([4])))
    null.sum().backward()
    assert adapter.no_hidden.grad.abs().sum() > 0
    assert adapter.t_vel.weight.grad[4].abs().sum() > 0
    assert (adapter.t_vel.weight.grad[:4] == 0).all()


def test_hidden_states_of_any_scale():
    adapter = DecisionAdapter(16, 8, "vlm")
    hidden = torch.randn(2, 16)
    torch.testing.assert_close(
        adapter(hidden, SPEED[:2], DIRECTION[:2]), adapter(hidden * 300, SPEED[:2], DIRECTION[:2]), atol=1e-4, rtol=1e-3
    )


def test_bad_arguments():
    with pytest.raises(InputError, match="mode"):
        DecisionAdapter(16, 8, "all")
    with pytest.raises(InputError, match="hidden_size"):
        DecisionAdapter(0, 8, "both")
    DecisionAdapter(0, 8, "decision")


@pytest.mark.parametrize("mode", MODES)
def test_a_fresh_adapter_of_any_mode_is_a_no_op_to_a_trained_planner(mode):
    """adaLN-zero: F_vlm enters through a projection that is zero until stage 1c trains it."""
    torch.manual_seed(0)
    planner = DiT(PolicyConfig(modes=4, dim=16, heads=2, blocks=2, mlp_ratio=2, speed_limit_input=False))
    with torch.no_grad():
        for name, p in planner.named_parameters():
            if not name.startswith("f_vlm."):
                p.add_(0.1 * torch.randn(p.shape))
    adapter = DecisionAdapter(16, 16, mode)
    x, t, scene = torch.randn(3, 1, 4, 2), torch.full((3, 1), 500), torch.randn(3, 5, 16)
    rest = {"motion_B4": torch.rand(3, 4), "navigation_B": torch.zeros(3, dtype=torch.long)}
    rest["speed_limit_B"] = torch.full((3,), torch.nan)
    none = planner(x, t, scene, None, f_vlm_BC=None, **rest)
    f_vlm = adapter(torch.randn(3, 16), SPEED, DIRECTION)
    assert none.abs().max() > 0
    assert torch.equal(planner(x, t, scene, None, f_vlm_BC=f_vlm, **rest), none)
    with torch.no_grad():
        planner.f_vlm.weight.fill_(0.1)
    same = torch.equal(planner(x, t, scene, None, f_vlm_BC=f_vlm, **rest), none)
    assert same == (mode == "none")  # and only through it


def test_merged_hidden_states_are_means_over_the_prompt_or_its_image():
    """Against the stock model's own states of one prompt alone, without padding."""
    camera = dataclasses.replace(Camera.fake(), width=112, height=56, cx=56.0)
    samples = Samples.fake(3, Rig((camera,)))
    samples = dataclasses.replace(samples, instruction_N=("", "please drive a little slower here", ""))
    vlm = DrivingVLM.tiny(seed=0).eval()
    prompt, image = (pooled_hidden(vlm, samples, which, chunk=2) for which in ("prompt", "image"))
    assert prompt.shape == image.shape == (3, vlm.hidden_size)
    for i in range(3):
        one = vlm.prepare(samples.take(slice(i, i + 1)))
        with torch.no_grad():
            states = vlm.hf.model(**one).last_hidden_state[0]
        at_image = one["input_ids"][0] == vlm.hf.config.image_token_id
        assert at_image.sum() == 8
        torch.testing.assert_close(prompt[i], states.mean(0), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(image[i], states[at_image].mean(0), atol=1e-4, rtol=1e-3)
    last = vlm.decide(samples).hidden_BD
    assert (prompt - last).abs().max() > 0.01 < (image - last).abs().max()
    assert pooled_hidden(vlm.to(torch.bfloat16), samples, "prompt").dtype == torch.float32  # what the adapter takes
    with pytest.raises(InputError, match="'last' cannot be pooled"):
        pooled_hidden(vlm, samples, "last")
