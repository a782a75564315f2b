"""Problems: their answers are right, their lengths are kept, and what is trained on is not what is measured with."""

import collections
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from lmarch.config import DataConfig
from lmarch.data.material import material as made_of
from lmarch.data.tokenizers import load_tokenizer
from lmarch.errors import UserError
from lmarch.tasks import TASKS, Material, Problem
from lmarch.tasks.state_tracking import GROUPS

BYTES = load_tokenizer("bytes")
SPELLINGS = (
    "copy",
    "reverse:alphabet=5",
    "induction",
    "mqar",
    "mqar:pairs=3",
    "needle",
    "needle:keys=3,digits=3",
    "needle:filler=grass,depth=0.5",
    "state_tracking:group=a5",
    "backcopy",
)
LENGTHS = (40, 41, 63, 128)


@pytest.fixture(scope="module")
def materials(tmp_path_factory) -> dict[str, Material]:
    data = DataConfig(corpus=tiny.write_corpus(tmp_path_factory.mktemp("text")))
    return {"train": made_of(data, "train", BYTES), "test": made_of(data, "test", BYTES)}


@pytest.fixture(scope="module")
def material(materials) -> Material:
    return materials["test"]


def problems(spelling: str, material: Material, length: int, count: int = 30) -> list[Problem]:
    task = TASKS.build(spelling)
    task.check(material, length)
    return [task.problem(length, material, np.random.default_rng(number)) for number in range(count)]


def text(ids: np.ndarray) -> str:
    return BYTES.decode(ids)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("length", LENGTHS)
def test_problems_of_one_length_have_one_shape_and_fill_it(spelling: str, length: int, material) -> None:
    made = [problem.example for problem in problems(spelling, material, length)]
    shapes = {(len(example.inputs), len(example.targets)) for example in made}
    assert len(shapes) == 1
    scored = {None if example.scored is None else int(example.scored.sum()) for example in made}
    assert len(scored) == 1
    ((inputs, targets),) = shapes
    assert length - 1 <= inputs + targets - 1 <= length
    if spelling.startswith("needle"):
        assert inputs + targets - 1 == length


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_problem_depends_on_its_generator_alone_and_differs_from_others(spelling: str, material) -> None:
    first, again = (problems(spelling, material, 63) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.example.inputs, other.example.inputs)
        np.testing.assert_array_equal(one.example.targets, other.example.targets)
    assert len({(p.example.inputs.tobytes(), p.example.targets.tobytes()) for p in first}) == len(first)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_shortest_problem_can_be_made_and_a_shorter_one_is_refused(spelling: str, material) -> None:
    task = TASKS.build(spelling)
    (problem,) = problems(spelling, material, task.shortest, count=1)
    assert len(problem.example.targets) > 0
    with pytest.raises(UserError, match=f"no problem of {task.shortest - 1} tokens: the shortest has {task.shortest}"):
        task.check(material, task.shortest - 1)


def test_a_copy_is_what_was_given_and_ends(material) -> None:
    for spelling, step in (("copy", 1), ("reverse", -1)):
        for problem in problems(spelling, material, 64):
            inputs, targets = problem.example.inputs, problem.example.targets
            assert inputs[0] == BYTES.bos
            assert targets[-1] == BYTES.eos
            assert text(targets) == text(inputs)[:-1][::step]
            assert len(text(targets)) == 31


def test_induction_goes_on_as_before_without_repeats(material) -> None:
    for problem in problems("induction", material, 64):
        said = np.concatenate([problem.example.inputs, problem.example.targets])
        first, second = said[1:33], said[33:]
        np.testing.assert_array_equal(first, second)
        assert len(set(first.tolist())) == 32
        np.testing.assert_array_equal(problem.example.targets, first[1:])
        assert problem.distance == 32


def test_values_of_mqar_are_those_of_their_keys(material) -> None:
    for problem in problems("mqar:pairs=5", material, 64):
        inputs, targets, scored = problem.example.inputs[1:], problem.example.targets, problem.example.scored
        value_of = dict(zip(inputs[::2].tolist(), inputs[1::2].tolist(), strict=True))
        assert len(value_of) == 5
        asked = np.flatnonzero(scored) - 1
        assert sorted(targets[asked].tolist()) == sorted(value_of)
        for place in asked:
            assert targets[place + 1] == value_of[targets[place]]
        everything = np.concatenate([inputs, targets])
        distances = [np.flatnonzero(everything == targets[place]) for place in asked]
        assert problem.distance == max(last - first for first, last in distances)


def test_a_needle_stands_at_its_depth_and_is_asked_for(material) -> None:
    for depth in (0.0, 0.5, 1.0):
        for problem in problems(f"needle:depth={depth},filler=grass", material, 128):
            given, answer = text(problem.example.inputs), text(problem.example.targets)
            (name,) = re.findall(r"<(\w)=$", given)
            number = answer.removesuffix(">")
            assert re.fullmatch(r"\d{5}", number)
            at = given.index(f"<{name}={number}>")
            assert at == round(depth * (128 + 1 - 9 - 3 - 6))
            assert problem.distance == len(given) - (at + 3)


def test_other_keys_have_other_names_and_the_asked_one_is_among_them(material) -> None:
    for problem in problems("needle:keys=4", material, 128):
        given = text(problem.example.inputs)
        named = dict(re.findall(r"<(\w)=(\d+)>", given))
        assert len(named) == 4
        assert named[given[-2]] == text(problem.example.targets).removesuffix(">")


@pytest.mark.parametrize("group", GROUPS)
def test_a_product_is_that_of_the_group(group: str, material) -> None:
    table = GROUPS[group]
    size = len(table)
    assert size == {"s3": 6, "a5": 60, "z60": 60}[group]
    assert all(sorted(row) == list(range(size)) for row in table.tolist())
    np.testing.assert_array_equal(table[0], np.arange(size))  # element 0 changes nothing
    rng = np.random.default_rng(0)
    for a, b, c in rng.integers(0, size, (200, 3)):
        assert table[table[a, b], c] == table[a, table[b, c]]
    assert (table != table.T).any() == (group != "z60")
    index = {int(symbol): number for number, symbol in enumerate(material.symbols)}
    for problem in problems(f"state_tracking:group={group}", material, 20):
        moves = [index[int(symbol)] for symbol in problem.example.inputs[1:-1]]
        assert len(moves) == 18
        (answer,) = problem.example.targets
        assert index[int(answer)] == list(itertools.accumulate(moves, lambda a, b: table[a, b]))[-1]


def test_after_a_trigger_comes_what_stood_before_it_and_else_what_the_chain_says(material) -> None:
    task = TASKS.build("backcopy:alphabet=6,triggers=2")
    index = {int(symbol): number for number, symbol in enumerate(material.symbols)}
    seen = np.zeros((6, 6))
    for number in range(300):
        example = task.problem(200, material, np.random.default_rng(number)).example
        said = [index[int(token)] for token in (*example.inputs[1:], *example.targets)]
        assert said[0] >= 2
        for before, last, follows in zip(said, said[1:], said[2:], strict=False):
            if last < 2:
                assert follows == before
            else:
                seen[last, follows] += 1
    cumulative = np.random.default_rng(0).dirichlet(np.full(6, 0.3), 6)
    found = seen[2:] / seen[2:].sum(1, keepdims=True)
    np.testing.assert_allclose(found, cumulative[2:], atol=0.02)


def test_needles_are_of_one_length_for_tokenizers_with_words_too(materials) -> None:
    """Characters are spelled one by one: `48` may be a token of its own elsewhere in a text."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.BPE())
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        ["48213 48213 <A=48> " * 50], tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    )
    encode = SimpleNamespace(
        name="bpe", bos=0, eos=1, byte_lengths=np.ones(300, int), encode=lambda text: np.array(words.encode(text).ids)
    )
    assert len(encode.encode("48213")) == 1
    material = Material("test", encode, lambda: ["the quick brown fox " * 40])
    made = [TASKS.build("needle").problem(90, material, np.random.default_rng(n)) for n in range(20)]
    assert {(len(p.example.inputs), len(p.example.targets)) for p in made} == {(85, 6)}


def test_training_and_measuring_share_neither_keys_nor_text(materials) -> None:
    found: dict[str, tuple[set, set]] = {}
    for split, material in materials.items():
        made = problems("needle:digits=3", material, 100, count=400)
        numbers = {text(problem.example.targets) for problem in made}
        fillers = {re.sub(r"<\w=\d*>?", "", text(problem.example.inputs)) for problem in made}
        own = {text(tokens) for tokens in material.texts}
        assert all(any(filler in whole for whole in own) for filler in fillers)
        found[split] = numbers, fillers
    assert not found["train"][0] & found["test"][0]
    assert not found["train"][1] & found["test"][1]
    assert min(len(numbers) for numbers, _ in found.values()) > 150


def test_passages_come_from_every_place_of_every_document(materials) -> None:
    material, rng = materials["train"], np.random.default_rng(0)
    shortest = min(len(tokens) for tokens in material.texts)
    seen = {text(material.passage(shortest, rng)) for _ in range(200)}
    assert len(seen) > 150
    assert all(any(passage in text(tokens) for tokens in material.texts) for passage in seen)


def test_every_passage_is_equally_likely() -> None:
    material, rng = Material("train", BYTES, lambda: ("abcde", "no", "xyz")), np.random.default_rng(0)
    drawn = collections.Counter(text(material.passage(3, rng)) for _ in range(4000))
    assert drawn.keys() == {"abc", "bcd", "cde", "xyz"}
    assert all(abs(count - 1000) < 4 * 750**0.5 for count in drawn.values())  # four standard deviations


@pytest.mark.parametrize(
    ("spelling", "length", "message"),
    [
        ("induction:alphabet=8", 40, "has no problem of 40 tokens: 8 symbols without repeats make at most 17"),
        ("copy:alphabet=300", 40, "needs 301 different symbols, and tokenizer 'bytes' has 256"),
        ("mqar:keys=3", 128, "keys=3 are too few for 8 pairs"),
        ("needle", 100_000, "the longest test one has"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_limit(spelling: str, length: int, message: str, material) -> None:
    with pytest.raises(UserError) as error:
        TASKS.build(spelling).check(material, length)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("copie", "unknown task 'copie'; did you mean 'copy'?"),
        ("needle:keys=0", "task needle keys=0 must be 1 to 26"),
        ("needle:depth=2", "task needle depth=2.0 must be in [0, 1]"),
        ("mqar:pairs=9,keys=8", "task mqar keys=8 must be as many as pairs, or more"),
        ("state_tracking:group=d4", "is not one of s3, a5, z60"),
    ],
)
def test_a_wrong_parameter_is_one_line(spelling: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        TASKS.build(spelling)
    assert message in str(error.value)
