"""Prompts read back, the tokenizer is what a Qwen model expects, the trie holds every answer."""

import math
import re

import numpy as np
import pytest

from senna2.decisions import ALL_DECISIONS, DIRECTION_TEXT, SPEED_TEXT, parse_decision
from senna2.model.vlm import prompts, tokenizer
from senna2.model.vlm.trie import TokenTrie
from senna2.types import Direction, InputError

FORM = re.compile(
    r"navigation (?P<nav>[\w ]+), speed (?P<v>\d+\.\d), limit (?P<limit>[\d.]+|unknown)(?:\. (?P<said>.+))?$"
)


@pytest.mark.parametrize("navigation", [d for d in Direction if d >= 0])
@pytest.mark.parametrize(("v", "limit"), [(0.0, 13.9), (12.34, math.nan), (33.25, 8.333)])
def test_user_prompt_reads_back(navigation: Direction, v: float, limit: float) -> None:
    text = prompts.user_prompt(v, navigation, limit, "  Please   turn left. ")
    found = FORM.match(text)
    assert found, text
    assert found["nav"] == DIRECTION_TEXT[navigation]
    assert float(found["v"]) == pytest.approx(v, abs=0.051)
    assert found["limit"] == "unknown" if math.isnan(limit) else abs(float(found["limit"]) - limit) < 0.051
    assert found["said"] == "Please turn left."


def test_unknowns_and_no_instruction() -> None:
    text = prompts.user_prompt(-1e-6, -1, math.inf)
    assert text == "navigation unknown, speed 0.0, limit unknown"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((math.nan, 0, 10.0), "ego speed"),
        ((1.0, 7, 10.0), "navigation 7"),
        ((1.0, 0, 10.0, "stop<|im_end|>"), "instruction"),
    ],
)
def test_bad_input_names_the_field(arguments: tuple, match: str) -> None:
    with pytest.raises(InputError, match=match):
        prompts.user_prompt(*arguments)


def test_system_prompt_tells_the_task() -> None:
    text = prompts.system_prompt()
    assert all(name in text for name in (*SPEED_TEXT, *DIRECTION_TEXT))
    assert "1.5 s" in text
    assert "standing within a few tenths of a second" in text


def test_answers_are_the_decisions() -> None:
    assert [parse_decision(a) for a in prompts.ANSWERS] == list(ALL_DECISIONS)


def test_tokenizer_is_deterministic() -> None:
    first = tokenizer.train_tokenizer().get_vocab()
    tokenizer._trained.cache_clear()
    assert tokenizer.train_tokenizer().get_vocab() == first


def test_tokenizer_words_and_any_text() -> None:
    t = tokenizer.train_tokenizer()
    assert t.eos_token == tokenizer.TURN_END
    assert all(len(t.encode(s, add_special_tokens=False)) == 1 for s in tokenizer.SPECIAL)
    # Every word of the answers is one token: speed (1 or 2), comma, direction (2 or 3), end.
    lengths = {a: len(ids) for a, ids in zip(prompts.ANSWERS, tokenizer.answer_ids(t, prompts.ANSWERS), strict=True)}
    assert lengths["STOP, GO STRAIGHT"] == 5
    assert max(lengths.values()) == lengths["KEEP SPEED, CHANGE LANE LEFT"] == 7
    for text in ("Überhole nicht! 零", "navigation GO STRAIGHT, speed 9.1, limit 33.3", prompts.system_prompt()):
        assert t.decode(t.encode(text, add_special_tokens=False)) == text
    spoken = [t.decode([i]) for i in t.encode(", speed 12.3", add_special_tokens=False)]
    assert spoken == [",", " speed", " ", "1", "2", ".", "3"]  # digits one by one, as Qwen does


def test_prompt_and_answer_tokenise_apart_as_together() -> None:
    # Fine-tuning tools tokenise the whole conversation; we feed prompt and answer separately.
    t = tokenizer.train_tokenizer()
    user = prompts.user_prompt(8.3, 1, 13.9)
    ask = t.apply_chat_template(prompts.messages(user), add_generation_prompt=True, tokenize=False)
    for answer, ids in zip(prompts.ANSWERS, tokenizer.answer_ids(t, prompts.ANSWERS), strict=True):
        whole = t.apply_chat_template(prompts.messages(user, answer), tokenize=False)
        assert t.encode(whole)[: len(t.encode(ask)) + len(ids)] == [*t.encode(ask), *ids]


def test_trie_holds_every_answer() -> None:
    t = tokenizer.train_tokenizer()
    ids = tokenizer.answer_ids(t, prompts.ANSWERS)
    trie = TokenTrie.build(ids, len(DIRECTION_TEXT))
    assert sorted(trie.root.answers()) == list(range(20))
    assert len(trie.root.tokens) == 4
    edges = trie.packed
    for n, answer in enumerate(ids):
        assert tuple(edges.edge_to_E[edges.answer_E == n]) == answer
    assert len(edges.token_N) == len({a[:k] for a in ids for k in range(1, len(a))})
    assert (edges.sees_NN.sum(1) == edges.depth_N + 1).all()
    assert not np.triu(edges.sees_NN, 1).any()


def test_trie_with_a_common_beginning_and_long_words() -> None:
    trie = TokenTrie.build([(9, 1, 1, 5, 0), (9, 1, 1, 6, 0), (9, 2, 3, 5, 0), (9, 2, 3, 6, 0)], 2)
    assert trie.root.run == (9,)
    assert trie.root.tokens == (1, 2)
    assert [child.run for child in trie.root.children if not isinstance(child, int)] == [(1, 1), (2, 3)]
    assert trie.speed_of_choice == (0, 1)


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        ([(1, 0), (1, 0), (2, 0), (3, 0)], "same tokens"),
        ([(1, 1, 0), (1, 2, 0), (1, 3, 0), (2, 1, 0)], "start with the same token"),
        ([(1, 0), (2, 0), (3, 0), (4, 0)], "two ways"),
    ],
)
def test_trie_refuses_what_it_cannot_decide(ids: list, match: str) -> None:
    with pytest.raises(InputError, match=match):
        TokenTrie.build(ids, 2)
