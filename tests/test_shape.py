"""Cutting, padding, repeating and reordering against PyTorch, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.config import kind
from dgraph.error import ConfigError
from dgraph.ops import OPS
from dgraph.ops.letter import LETTERS, letters_of
from tests.peer import compare, dims, torch

functional = torch.nn.functional


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_transpose_is_that_of_torch(data):
    dim = data.draw(dims(most=6, longest=4))
    order = data.draw(st.permutations(range(len(dim))))
    letters = letters_of(len(dim))
    given = "".join(letters[d] for d in order) if len(dim) < 6 and data.draw(st.booleans()) else order
    compare(data, "transpose", {"order": given}, {"input": dim}, lambda input: input.permute(order))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_slice_is_that_of_python(data):
    dim = data.draw(dims(most=6))
    taken, attributes = [slice(None)] * len(dim), {}
    for d, (letter, n) in enumerate(zip(letters_of(len(dim)), dim, strict=True)):
        ends = st.none() | st.integers(-n - 2, n + 2)
        value = [data.draw(ends), data.draw(ends), data.draw(st.integers(1, 4))]
        if data.draw(st.booleans()) and range(n)[slice(*value)]:
            taken[d] = slice(*value)
            attributes[letter] = value[:2] if value[2] == 1 else value
    compare(data, "slice", attributes, {"input": dim}, lambda input: input[tuple(taken)])


@st.composite
def margins(draw, dim, key, widest):
    """(attributes, a pair for every dimension): by letter, or `key` for all spatial dimensions at once."""
    pairs = [draw(st.tuples(st.integers(0, most), st.integers(0, most))) for most in map(widest, dim)]
    if len(dim) > 2 and draw(st.booleans()):
        return {key: [list(pair) for pair in pairs[2:]]}, [(0, 0), (0, 0), *pairs[2:]]
    letters = letters_of(len(dim))
    named = draw(st.sets(st.sampled_from(letters)))
    pairs = [pair if letter in named else (0, 0) for letter, pair in zip(letters, pairs, strict=True)]
    return {letter: list(pair) for letter, pair in zip(letters, pairs, strict=True) if letter in named}, pairs


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_crop_takes_margins_away(data):
    dim = data.draw(dims(most=6))
    attributes, pairs = data.draw(margins(dim, "margin", lambda n: (n - 1) // 2))
    taken = tuple(slice(before, n - after) for n, (before, after) in zip(dim, pairs, strict=True))
    compare(data, "crop", attributes, {"input": dim}, lambda input: input[taken])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_pad_is_that_of_torch(data):
    dim = data.draw(dims(longest=3))
    attributes, pairs = data.draw(margins(dim, "padding", lambda n: 3))
    value = data.draw(st.sampled_from([0, -1.5]))
    flat = [width for pair in reversed(pairs) for width in pair]
    attributes |= {"value": value} if value else {}
    compare(data, "pad", attributes, {"input": dim}, lambda input: functional.pad(input, flat, value=value))


MODES = {"nearest": ["nearest"] * 3, "linear": ["linear", "bilinear", "trilinear"]}


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_upsample_is_that_of_torch(mode, data):
    dim = data.draw(dims(3, longest=4))
    scale = [data.draw(st.integers(1, 3)) for _ in dim[2:]]
    theirs = {"mode": MODES[mode][len(scale) - 1]} | ({"align_corners": False} if mode == "linear" else {})
    attributes = {"scale": scale, "mode": mode}
    compare(
        data, "upsample", attributes, {"input": dim},
        lambda input: functional.interpolate(input, scale_factor=[float(s) for s in scale], **theirs),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("op", "attributes", "dim", "what", "hint"),
    [
        ("slice", {"H": [2, 2]}, (1, 2, 3, 4), "H of 3: [2, 2, 1] leaves nothing", "start < stop"),
        ("slice", {"D": [2, 2]}, (1, 2, 3, 4), "there is no dimension D", "a tensor of 4 has N, C, H, W"),
        ("crop", {"W": [1, 3]}, (1, 2, 4), "W of 4: a margin of [1, 3] leaves nothing", "before + after < extent"),
        ("crop", {"margin": 1, "W": 1}, (1, 2, 4), "margin and W both name a dimension", "one of them is enough"),
        ("pad", {"X2": 1}, (1, 2, 4), "there is no dimension X2", "a tensor of 3 has N, C, W"),
        ("upsample", {"scale": 2}, (1, 2), "a tensor of dim [1, 2] cannot be an input here",
         "wanted are spatial dimensions"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(op, attributes, dim, what, hint):
    read = {key: one.read(attributes.get(key, one.default), len(dim) - 2) for key, one in OPS[op].attributes.items()}
    with pytest.raises(ConfigError) as caught:
        OPS[op].access(read, {"input": dim})
    assert (caught.value.what, caught.value.hint) == (what, hint)


@pytest.mark.parametrize(
    ("op", "key", "value"),
    [
        ("transpose", "order", "NCHH"),
        ("transpose", "order", [0, 1, 2]),
        ("transpose", "order", 3),
        ("slice", "H", [8, 2, -1]),
        ("slice", "H", 3),
        ("slice", "H", [1, 2, 3, 4]),
        ("slice", "H", ["a", 2]),
        ("crop", "H", [-1, 2]),
        ("pad", "padding", [1, 2, 3]),
        ("pad", "value", "edge"),
        ("upsample", "mode", "cubic"),
        ("upsample", "scale", 0),
    ],
)
def test_attributes_of_another_kind_are_refused(op, key, value):
    with pytest.raises(ValueError, match=r"^[a-z0-9\[][^\n]*$"):
        OPS[op].attributes[key].read(value, 2)


@pytest.mark.parametrize(("op", "key"), [("crop", "margin"), ("pad", "padding")])
@pytest.mark.parametrize("spatial", [-1, 0])
def test_margins_of_no_space_are_refused(op, key, spatial):
    with pytest.raises(ValueError, match=r"^left out where there are no spatial dimensions$"):
        OPS[op].attributes[key].read(1, spatial)


def test_every_letter_is_a_key_of_a_layer():
    assert {*kind.LETTERS} == {*LETTERS}
