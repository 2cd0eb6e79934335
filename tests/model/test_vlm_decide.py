"""The four ways to decide: they agree where they must, and say what they do not know."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from senna2.decisions import ALL_DECISIONS
from senna2.model.vlm import DrivingVLM, VLMConfig, VLMOutput
from senna2.model.vlm.generate import FREE_TOKENS, left_padded, parsed
from senna2.model.vlm.prompts import ANSWERS
from senna2.model.vlm.tokenizer import answer_ids
from senna2.model.vlm.trie import TokenTrie
from senna2.types import Array, Decision, InputError, Rig, Samples

LOUD = VLMConfig(layers=2, vision_layers=2, initializer_range=0.15)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loud() -> DrivingVLM:
    return DrivingVLM.tiny(LOUD, seed=3).eval()


def mixed(n: int, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    base = Samples.fake(n, Rig.default(), seed)
    motion = base.motion_N4.copy()
    motion[:, 0] = rng.uniform(0, 30, n)
    return replace(base, motion_N4=motion, navigation_N=(np.arange(n) % 5).astype(np.int8))


@pytest.fixture(scope="module")
def both(loud: DrivingVLM) -> tuple[VLMOutput, Tensor, VLMOutput]:
    """By trie, the joint probabilities by score, and the whole output by score."""
    samples = mixed(16)
    score = loud.decide(samples, method="score")
    assert score.joint_logp_B20 is not None
    return loud.decide(samples), score.joint_logp_B20, score


def greedy_on(joint_20: Array, ids: list[tuple[int, ...]]) -> int:
    """Constrained greedy generation read off the probabilities of whole answers, token by token."""
    said: tuple[int, ...] = ()
    while said not in ids:
        mass: dict[int, float] = {}
        for p, answer in zip(np.exp(joint_20), ids, strict=True):
            if answer[: len(said)] == said:
                mass[answer[len(said)]] = mass.get(answer[len(said)], 0.0) + float(p)
        said = (*said, max(mass, key=lambda t: mass[t]))
    return ids.index(said)


def test_trie_and_score_have_one_distribution(both: tuple[VLMOutput, Tensor, VLMOutput]) -> None:
    trie, joint_B20, score = both
    rows = torch.arange(len(joint_B20))
    assert trie.direction_logp_B5 is not None
    mine = trie.speed_logp_B4.gather(1, trie.speed_B[:, None]) + trie.direction_logp_B5
    torch.testing.assert_close(mine, joint_B20.view(-1, 4, 5)[rows, trie.speed_B], atol=1e-4, rtol=0)
    torch.testing.assert_close(trie.speed_logp_B4, score.speed_logp_B4, atol=1e-4, rtol=0)
    torch.testing.assert_close(joint_B20.exp().sum(1), torch.ones(len(rows)))
    assert torch.equal(trie.hidden_BD, score.hidden_BD)


def test_trie_is_greedy_and_score_the_most_probable(
    loud: DrivingVLM, both: tuple[VLMOutput, Tensor, VLMOutput]
) -> None:
    trie, joint_B20, score = both
    number = (trie.speed_B * 5 + trie.direction_B).tolist()
    assert number == [greedy_on(row, loud.answer_ids) for row in joint_B20.numpy()]
    best = joint_B20.argmax(1)
    assert torch.equal(score.speed_B * 5 + score.direction_B, best)
    alike = [a == b for a, b in zip(number, best.tolist(), strict=True)]
    assert sum(alike) >= len(alike) // 2  # where a first choice is clear they are one
    assert len(set(number)) >= 3  # else the test shows nothing


def test_probabilities_are_those_of_constrained_sampling(loud: DrivingVLM) -> None:
    # The slow way: at each token a softmax over what may follow, one whole forward pass an answer.
    row = mixed(1)
    wanted = []
    for answer, text in zip(loud.answer_ids, ANSWERS, strict=True):
        x = loud.prepare(row, [text])
        x.pop("labels")
        with torch.no_grad():
            logits = loud(**x, use_cache=False).logits[0, -len(answer) - 1 : -1]
        total = 0.0
        for k, token in enumerate(answer):
            allowed = sorted({a[k] for a in loud.answer_ids if a[:k] == answer[:k] and len(a) > k})
            total += float(logits[k, allowed].log_softmax(0)[allowed.index(token)])
        wanted.append(total)
    joint = loud.decide(row, method="score").joint_logp_B20
    assert joint is not None
    torch.testing.assert_close(joint[0], torch.tensor(wanted), atol=1e-4, rtol=0)


def test_entropy_and_marginals(both: tuple[VLMOutput, Tensor, VLMOutput]) -> None:
    trie, joint_B20, score = both
    p = joint_B20.exp().double()
    torch.testing.assert_close(score.entropy_B.double(), -(p * p.log()).sum(1), atol=1e-4, rtol=1e-4)
    assert (score.speed_entropy_B <= score.entropy_B + 1e-5).all()
    direction = score.direction_marginal_logp_B5.exp().double()
    torch.testing.assert_close(direction, p.view(-1, 4, 5).sum(1), atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="score"):
        _ = trie.entropy_B
    certain = VLMOutput(torch.zeros(1, 1), torch.zeros(1), torch.zeros(1), torch.tensor([[0.0, *[-math.inf] * 3]]))
    assert float(certain.speed_entropy_B[0]) == 0.0  # and not NaN


def test_constrained_generation_says_what_the_trie_says(loud: DrivingVLM) -> None:
    samples = mixed(8, seed=1)
    trie, word = loud.decide(samples, batch=5), loud.decide(samples, batch=5, method="constrained")
    assert torch.equal(trie.speed_B, word.speed_B)
    assert torch.equal(trie.direction_B, word.direction_B)
    torch.testing.assert_close(trie.speed_logp_B4, word.speed_logp_B4, atol=1e-4, rtol=0)
    torch.testing.assert_close(trie.hidden_BD, word.hidden_BD, atol=1e-4, rtol=1e-4)
    assert word.unparsed == 0
    assert word.joint_logp_B20 is None


def test_free_speech_that_is_no_decision_is_unknown_and_counted(loud: DrivingVLM) -> None:
    samples = mixed(4)
    free = loud.decide(samples, method="generate")
    assert free.unparsed == 4  # random weights do not speak
    assert free.speed_B.tolist() == free.direction_B.tolist() == [-1] * 4
    torch.testing.assert_close(free.speed_logp_B4, loud.decide(samples).speed_logp_B4, atol=1e-4, rtol=0)


def test_free_speech_of_a_trained_model_is_read() -> None:
    base = mixed(4)
    speed, direction = np.array([0, 1, 2, 3]), np.array([0, 4, 2, 3])
    samples = replace(base, navigation_N=direction.astype(np.int8), motion_N4=base.motion_N4 * 0 + 5 * speed[:, None])
    vlm = DrivingVLM.tiny(VLMConfig(layers=2, vision_layers=1), seed=0)
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nll = vlm.answer_nll(samples, speed, direction)
        nll.mean().backward()
        optimizer.step()
        if float(nll.detach().max()) < 0.1:
            break
    free = vlm.eval().decide(samples, method="generate")
    assert free.unparsed == 0
    assert free.speed_B.tolist() == speed.tolist()
    assert free.direction_B.tolist() == direction.tolist()


def test_reading_answers(loud: DrivingVLM) -> None:
    said = ["keep  speed, go straight", "KEEP SPEED", "I would stop.", "STOP, TURN LEFT, TURN RIGHT", ""]
    ids = answer_ids(loud.tokenizer, said)
    assert parsed(loud.tokenizer, ids) == [(2, 0), *[(-1, -1)] * 4]
    assert max(map(len, loud.answer_ids)) < FREE_TOKENS
    assert [Decision(*d) for d in parsed(loud.tokenizer, loud.answer_ids)] == list(ALL_DECISIONS)


def test_left_padding_moves_the_padding_only() -> None:
    ids = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    pixels = torch.ones(3, 2)
    out = left_padded({"input_ids": ids, "attention_mask": mask, "pixel_values": pixels})
    assert out["input_ids"].tolist() == [[0, 5, 6, 7], [5, 6, 7, 8]]
    assert out["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert out["pixel_values"] is pixels


@pytest.mark.parametrize("rows", [1, 8])
def test_the_trie_takes_one_pass_behind_the_prompt(loud: DrivingVLM, rows: int) -> None:
    lengths: list[int] = []
    images: list[int] = []
    text = loud.hf.model.language_model.register_forward_hook(
        lambda _, args, kwargs, out: lengths.append(out.last_hidden_state.shape[1]), with_kwargs=True
    )
    image = loud.hf.model.visual.register_forward_hook(lambda *_: images.append(1))
    loud.decide(mixed(rows))
    text.remove()
    image.remove()
    assert len(images) == 1
    assert len(lengths) == (2 if rows == 1 else 3)  # of a batch the system prompt is computed once, before
    assert lengths[-1] <= 6  # speed (one or two words), comma, TURN, CHANGE, LANE


def test_an_unknown_method_is_refused(loud: DrivingVLM) -> None:
    with pytest.raises(InputError, match="guess"):
        loud.decide(mixed(1), method="guess")  # type: ignore[arg-type]


def test_what_is_open() -> None:
    ids = [(9, 1, 3, 5, 0), (9, 1, 4, 6, 0), (9, 1, 4, 7, 0), (9, 2, 8, 3, 0), (9, 2, 8, 4, 0), (9, 2, 8, 5, 0)]
    trie = TokenTrie.build(ids, 3)
    below = trie.below
    # Behind 1: {3, 4}, behind 1 4: {6, 7}. Behind 2 8: {3, 4, 5}. What is forced at the end is not fed.
    assert below.token_CN.tolist() == [[1, 4], [2, 8]]
    assert below.depth_CN.tolist() == [[0, 1], [0, 1]]
    assert below.sees_CNN.tolist() == [[[True, False], [True, True]]] * 2
    assert below.edge_to_CU.tolist() == [[3, 4, 6, 7], [3, 4, 5, 0]]
    assert below.edge_from_CU.tolist() == [[0, 0, 1, 1], [1, 1, 1, 0]]
    assert below.place_CU.tolist() == [[0, 0, 1, 1], [0, 0, 0, -1]]
    assert below.next_CU.tolist() == [[-1, 1, -2, -3], [-1, -2, -3, -1]]
    assert below.uses_CAU.astype(int).tolist() == [
        [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]],
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    ]
    assert trie.whole.token_CN.tolist() == [[9, 1, 2, 4, 8]]
    assert trie.whole.uses_CAU.sum(2).tolist() == [[2, 3, 3, 2, 2, 2]]
