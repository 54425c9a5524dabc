"""Laws of sentences as vectors: one sentence, one vector; close in meaning, close in space; nothing without text."""

import subprocess
import sys
from itertools import combinations

import pytest
import torch

from configs.runs.guiding import LIBRARIES
from envs.settings import ARM_TASKS, CHARACTERS, INSTRUCTIONS, NAMES, TaskConfig, check_sentence
from envs.suite import BY_NAME
from policies.guidance.wishes import meant, read_library
from policies.text_encoder import Words, recognised
from worldmodel.errors import UserError


@pytest.fixture(scope="module")
def words():
    return Words()


@pytest.fixture(scope="module")
def paraphrases(words):
    """The vectors (3, 18, T) of the walker's guidances to stand, walk and run in other words; the sentences' (3, T)."""
    entries = read_library(LIBRARIES / "walker.yaml")[:3]
    said = torch.stack([words.encode(entry.paraphrases) for entry in entries])
    return said, words.encode([INSTRUCTIONS[f"walker-{name}"] for name in ("stand", "walk", "run")])


def test_a_sentence_has_one_vector_alone_or_among_others_now_or_later(words):
    sentences = [*INSTRUCTIONS.values()]
    together = words.encode(sentences)
    alone = torch.cat([Words().encode([text]) for text in sentences[:3]])
    assert together.shape == (len(sentences), words.size)
    assert together.dtype == torch.float32
    assert torch.equal(together[:3], alone)
    assert torch.equal(words.encode(["  Walk \n Forward. "]), words.encode(["walk forward"]))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(sentences)))


def test_what_does_not_count_is_zeros_with_text_or_without(words):
    said = ("walk forward", "stand still", None)
    whole = words.encode(said[:2])
    seen = words.encode(said, [True, False, False])
    assert torch.equal(seen[0], whole[0]) and not seen[1:].any()
    for text in (None, "", "..."):
        with pytest.raises(ValueError, match=r"^observation\.language: sentence 2 is [^\n]*, without text; [^\n]*$"):
            words.encode(("walk", "stand", text))


def test_a_sentence_of_the_training_is_recognised_as_itself_and_its_paraphrases_as_it(paraphrases):
    said, tasks = paraphrases
    torch.testing.assert_close(recognised(tasks, tasks), tasks, atol=1e-6, rtol=0)
    found = recognised(said.flatten(0, 1), tasks)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(54))
    alike = (found @ tasks.T).unflatten(0, (3, 18))
    own = alike.diagonal(dim1=0, dim2=2)
    assert (own > 0.9).float().mean() >= 0.9
    assert (alike.argmax(-1) == torch.arange(3)[:, None]).float().mean() >= 0.95
    assert not recognised(torch.zeros(2, 256), tasks).isnan().any()  # where nothing is said


def test_nothing_is_loaded_before_the_first_sentence_nor_set_up_by_it():
    code = """
import logging, sys
from policies.text_encoder import Words
words = Words()
assert words.size and not {"wordllama", "tokenizers", "safetensors"} & set(sys.modules)
words.encode(["walk"])
assert "wordllama" not in sys.modules and not logging.getLogger().handlers
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_task_has_a_sentence_and_no_two_of_a_body_the_same():
    assert set(INSTRUCTIONS) == {*BY_NAME, *ARM_TASKS}
    assert all(check_sentence(TaskConfig(name).words, name) for name in NAMES)
    for one, other in combinations(INSTRUCTIONS, 2):
        if one.split("-")[0] == other.split("-")[0] and ("CMU" in one) == ("CMU" in other):
            assert INSTRUCTIONS[one] != INSTRUCTIONS[other]


@pytest.mark.parametrize("text", ["", ". !", "go " * 60, "go\nthere", "走"])
def test_a_text_that_no_sentence_can_be_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"^here: [^\n]+$"):
        check_sentence(text, "here")
    assert check_sentence("Geh geradeaus, é!", "here")
    assert len(set(CHARACTERS)) == len(CHARACTERS)


UNSEEN = {
    "walker": "please stand and hold still | walk along slowly | run like the wind | walk backwards slowly | fall down",
    "reacher": "hand to the right | arm to the left | tip up to the top | down at the bottom | into the middle",
    "cartpole": """
        stay balanced in the middle of the rail; upright and centred, please; pole on top, middle position;
        don't move away from the centre while balancing
        | balance with the cart moved to the right; hold the pole vertical right of centre; right side, pole up;
        travel rightwards, then balance there
        | balance with the cart moved to the left; hold the pole vertical left of centre; left side, pole up;
        travel leftwards, then balance there
        | keep the pole at the bottom without swinging; the pole should hang motionless
        | spin around fast; make the pole do cartwheels; rotate, rotate, rotate; keep the pole whirling
    """,
    "so101": """
        hand to the left hand side; stretch left; turn towards the left
        | hand to the right hand side; stretch right; turn towards the right
        | stretch to the front; arm out in front; reach as far ahead as possible; forwards with the arm
        | raise your hand into the air; higher; arm to the sky
        | lay the arm down on the table; sink down; put the tip on the table
        | spread your fingers; unclasp
        | clutch it
    """,
}
"""Paraphrases for each guidance of a library, in its order, which it does not have.

Those for the cartpole and the SO-101 were written by somebody who had not read the library's, but only its sentences.
"""


def test_words_mean_the_librarys_nearest_as_a_set():
    first = covered = size = count = 0
    for domain, said in UNSEEN.items():
        entries = read_library(LIBRARIES / f"{domain}.yaml")
        groups = [[" ".join(text.split()) for text in group.split(";")] for group in said.split("|")]
        each = [(entry, text) for entry, group in zip(entries, groups, strict=True) for text in group]
        assert not {text for _, text in each} & {text for entry in entries for text in entry.texts}
        for entry, text in each:
            found = meant(text, entries)
            first, covered, size = first + (found[0] == entry), covered + (entry in found), size + len(found)
            count += 1
        assert all(meant(text.upper() + ".", entries) == [e] for e in entries for text in e.texts)
        with pytest.raises(UserError, match="like nothing in the library"):
            meant("quarterly revenue spreadsheet", entries)
    still = {entry.sentence for entry in meant("hold the pole still", read_library(LIBRARIES / "cartpole.yaml"))}
    assert still == {"balance the pole in the middle", "let the pole hang still"}  # either may be meant
    assert first >= 0.9 * count and covered >= 0.9 * count and size <= 1.5 * count
