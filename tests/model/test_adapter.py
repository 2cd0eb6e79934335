import pytest
import torch

from senna2.model.adapter import MODES, DecisionAdapter
from senna2.types import InputError

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
