"""Every form of a prompt becomes token ids, and a wrong one is named."""

import numpy as np
import pytest
import tiny_tokenizers

from jaxengine.prompts import Prompt, prompt_list, read_prompts
from jaxengine.request import InvalidRequest

TOKENIZER = tiny_tokenizers.make()


@pytest.mark.parametrize(
    ("given", "several"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2]], [[1], [2]]),
        ({"prompt": "a"}, [{"prompt": "a"}]),
        ([], []),
    ],
)
def test_one_or_several(given, several):
    assert prompt_list(given) == several


def test_forms():
    the = TOKENIZER.encode("the")
    salted, both = {"prompt": "the", "cache_salt": "s"}, {"prompt_token_ids": [5], "prompt": "x"}
    given = ["the", [3, 4], salted, both, np.array([6])]
    assert read_prompts(given, TOKENIZER) == [
        Prompt(the, "the"),
        Prompt([3, 4]),
        Prompt(the, "the", "s"),
        Prompt([5], "x"),
        Prompt([6]),
    ]
    assert all(type(token) is int for token in read_prompts([np.array([6])], None)[0].token_ids)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (3.5, "prompt 1 is a float;"),
        (None, "prompt 1 is a NoneType;"),
        ([1, "a"], "prompt 1 is a list of something else"),
        ({}, "prompt 1 has neither"),
        ({"prompt": 3}, "prompt 1 has a int"),
        ({"prompt": "a", "multi_modal_data": 1}, "prompt 1 has multi_modal_data"),
        ({"prompt": "a", "cache_salt": ""}, "cache_salt: prompt 1 has ''"),
        ({"prompt_token_ids": [True]}, "prompt 1"),
    ],
)
def test_wrong_ones(prompt, message):
    with pytest.raises(InvalidRequest, match=message):
        read_prompts(["a", prompt], TOKENIZER)


def test_text_without_a_tokenizer():
    with pytest.raises(InvalidRequest, match="needs a tokenizer"):
        read_prompts(["a"], None)
