"""The share of other questions in stage 1a: drawn by sample and step alone, learned, and never more than a fifth."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.data.qa import corpus
from senna2.model.vlm import DrivingVLM, VLMConfig
from senna2.train.distributed import Ranks
from senna2.train.loop import Optim
from senna2.train.questions import draw_questions, question_nll
from senna2.train.stage1 import Stage1a, VlmStage, run_1a
from senna2.types import InputError, Rig, Samples


def _samples(n: int) -> Samples:
    return dataclasses.replace(Samples.fake(n, Rig.fake()), index_N=np.arange(n, dtype=np.int64))


def test_the_share_is_kept_and_batches_do_not_matter() -> None:
    data = _samples(200)
    asked = draw_questions(data, 0.2, 3, 7)
    assert 20 < len(asked.rows) < 60
    half = draw_questions(data.take(slice(100, 200)), 0.2, 3, 7)
    later = [(row, qa) for row, qa in zip(asked.rows, asked.qas, strict=True) if row >= 100]
    assert [(row + 100, qa) for row, qa in zip(half.rows, half.qas, strict=True)] == later
    assert draw_questions(data, 0.2, 3, 8).rows != asked.rows
    assert len({qa.kind for qa in asked.qas}) > 2
    assert draw_questions(data, 0.0, 3, 7).rows == []


@pytest.mark.parametrize("share", [-0.1, 0.21])
def test_more_than_a_fifth_is_refused(share, make_policy, store) -> None:
    with pytest.raises(InputError, match="qa_share"):
        VlmStage(make_policy(), store, Stage1a(Optim(2, 4, 1e-3), qa_share=share), 0)


def test_the_loss_is_the_decisions_and_the_answers(make_policy, store) -> None:
    policy = make_policy()
    stage = VlmStage(policy, store, Stage1a(Optim(2, 12, 1e-3), qa_share=0.2), 5)
    assert policy.vlm is not None
    data = store.take(np.arange(12))
    step = next(s for s in range(20) if len(draw_questions(data, 0.2, 5, s).rows) > 1)
    asked = draw_questions(data, 0.2, 5, step)
    loss, values = stage.loss(data, step, 12)
    assert loss is not None
    with torch.no_grad():
        answers = question_nll(policy.vlm, data, asked)
        decisions = policy.vlm.answer_nll(data, data.speed_N, data.direction_N)
    rest = [i for i in range(12) if i not in asked.rows]
    assert len(answers) == len(asked.rows)
    torch.testing.assert_close(loss.detach(), (answers.sum() + decisions[rest].sum()) / 12)
    assert values["qa_share"] == len(asked.rows) / 12
    assert values["qa"] == pytest.approx(float(answers.sum()) / 12, rel=1e-5)


def test_stage_1a_runs_with_questions(make_policy, store, tmp_path) -> None:
    optim = Optim(steps=12, batch=12, lr=2e-3, log_every=1, checkpoint_every=5)
    log = run_1a(make_policy(), store, Stage1a(optim, qa_share=0.2), tmp_path, seed=5, ranks=Ranks(), resume=False)
    asked = [row["qa"] / row["qa_share"] for row in log if row["qa_share"]]
    assert len(asked) > 6
    assert np.mean(asked[-3:]) < 0.9 * np.mean(asked[:3])


def test_the_loss_of_a_text_is_that_of_the_stock_model() -> None:
    vlm = DrivingVLM.tiny(VLMConfig(layers=1, vision_layers=1), texts=corpus()).eval()
    data = _samples(2)
    said = ["The ego's path is free.", "No light asks the ego to stop."]
    with torch.no_grad():
        ours = vlm.text_nll(data, ["Describe the scene."] * 2, said)
    for i in range(2):
        row = dataclasses.replace(data.take(slice(i, i + 1)), instruction_N=("Question: Describe the scene.",))
        with torch.no_grad():  # the stock loss is the mean over the answer's tokens; the prompt reads the same
            torch.testing.assert_close(vlm(**vlm.prepare(row, [said[i]])).loss, ours[i], atol=1e-5, rtol=1e-5)
    assert len(vlm.tokenizer.encode(said[0])) == 7  # a word a token
