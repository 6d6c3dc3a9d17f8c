"""Convolutions, pooling and local response normalisation against PyTorch, on random attributes and in random pieces.

PyTorch pads both sides alike: here every operand is padded, and every result cut, explicitly.
"""

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from dgraph.error import ConfigError
from dgraph.ops import OPS
from tests.peer import compare, torch

F = torch.nn.functional
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
LONGEST = {1: 9, 2: 6, 3: 4}
"""The largest extent, by the number of spatial dimensions."""
many = settings(max_examples=200, deadline=None)


def fold(pairs):
    """[before, after] of every dimension, as F.pad has it: the last dimension first."""
    return [n for pair in reversed(pairs) for n in pair]


def per_dimension(data, count, least, most):
    return [data.draw(st.integers(least, most)) for _ in range(count)]


def windows(data, extents):
    """Windows that fit: size (1 x 7 and 7 x 1 among them), stride, dilation and lopsided padding by dimension."""
    result = {"size": [], "stride": [], "dilation": [], "padding": []}
    for n in extents:
        size, dilation = data.draw(st.sampled_from([1, 2, 3, 3, 4, 7])), data.draw(st.integers(1, 3))
        reach = dilation * (size - 1) + 1
        before = data.draw(st.integers(0, reach - 1))
        least = max(0, reach - n - before)
        values = (size, data.draw(st.integers(1, 3)), dilation, [before, data.draw(st.integers(least, least + 2))])
        for entries, value in zip(result.values(), values, strict=True):
            entries.append(value)
    return result


def spatial(data):
    """(n, extents) of a small tensor with 1 to 3 spatial dimensions."""
    count = data.draw(st.sampled_from([1, 2, 2, 3]))
    return data.draw(st.integers(1, 3)), per_dimension(data, count, 1, LONGEST[count])


def channels(data):
    """(groups, input channels, output channels); now and then depthwise."""
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    inner = 1 if data.draw(st.booleans()) else 2
    return groups, groups * inner, groups * data.draw(st.integers(1, 3))


@many
@given(st.data())
def test_conv_is_that_of_torch(data):
    n, extents = spatial(data)
    groups, c, o = channels(data)
    window = windows(data, extents)

    def function(input, filters):
        padded = F.pad(input, fold(window["padding"]))
        return CONV[len(extents)](padded, filters, None, window["stride"], 0, window["dilation"], groups)

    compare(data, "conv", {"channels": o, "groups": groups, **window}, {"input": (n, c, *extents)}, function)


@many
@given(st.data())
def test_conv_transpose_is_that_of_torch(data):
    n, extents = spatial(data)
    groups, c, o = channels(data)
    window = windows(data, extents)
    beyond = per_dimension(data, len(extents), 0, 3)
    reached = [
        (m - 1) * s + d * (k - 1) + 1
        for m, k, s, d in zip(extents, window["size"], window["stride"], window["dilation"], strict=True)
    ]
    window["padding"] = padding = [
        [
            before := data.draw(st.integers(0, min(3, length - 1))),
            data.draw(st.integers(0, min(3, length - 1 - before))),
        ]
        for length in reached
    ]

    def function(input, filters):
        whole = CONV_TRANSPOSE[len(extents)](input, filters, None, window["stride"], 0, 0, groups, window["dilation"])
        return F.pad(
            whole, fold([(-before, more - after) for (before, after), more in zip(padding, beyond, strict=True)])
        )

    attributes = {"channels": o, "groups": groups, "output_padding": beyond, **window}
    compare(data, "conv_transpose", attributes, {"input": (n, c, *extents)}, function)


@many
@given(st.data())
def test_tiled_is_an_unfolded_einsum(data):
    n, extents = spatial(data)
    c, o = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    size = [data.draw(st.integers(1, extent)) for extent in extents]
    stride, tile = per_dimension(data, len(extents), 1, 3), per_dimension(data, len(extents), 1, 3)
    g, t, i = (letters[: len(extents)] for letters in ("xyz", "rst", "ijk"))

    def function(input, filters):
        for d, (k, s) in enumerate(zip(size, stride, strict=True), start=2):
            input = input.unfold(d, k, s)
        places = "".join(a + b for a, b in zip(g, t, strict=True))
        output = torch.einsum(f"nc{g}{i},o{t}c{i}{g}->no{places}", input, filters)
        return output.reshape(n, o, *(output.shape[d] * output.shape[d + 1] for d in range(2, output.ndim, 2)))

    attributes = {"channels": o, "tile": tile, "size": size, "stride": stride}
    compare(data, "tiled", attributes, {"input": (n, c, *extents)}, function)


@many
@given(st.data())
def test_linear_is_that_of_torch(data):
    dim = (
        data.draw(st.integers(1, 5)),
        data.draw(st.integers(1, 5)),
        *data.draw(st.lists(st.integers(1, 3), max_size=3)),
    )
    features = data.draw(st.integers(1, 7))

    def function(input, weights):
        return F.linear(input.flatten(1), weights.flatten(1)).reshape(dim[0], features, *(1,) * (len(dim) - 2))

    compare(data, "linear", {"features": features}, {"input": dim}, function)


def pooling(data):
    """(input dim, attributes) of windows that PyTorch takes: its padding is at most half a window on both sides."""
    n, extents = spatial(data)
    attributes = {
        "size": [data.draw(st.integers(1, min(4, extent))) for extent in extents],
        "stride": data.draw(st.one_of(st.none(), st.just(per_dimension(data, len(extents), 1, 4)))),
        "dilation": per_dimension(data, len(extents), 1, 3),
        "ceil": data.draw(st.booleans()),
    }
    reaches = [d * (k - 1) + 1 for k, d in zip(attributes["size"], attributes["dilation"], strict=True)]
    if data.draw(st.booleans()):
        halves = [data.draw(st.integers(0, size // 2)) for size in attributes["size"]]
        attributes["padding"] = [[half, half] for half in halves]
    else:
        attributes["padding"] = [per_dimension(data, 2, 0, reach - 1) for reach in reaches]
    return (n, data.draw(st.integers(1, 3)), *extents), attributes


def output_dim(op, attributes, dim):
    """The op's own; a case whose windows do not fit is passed over."""
    record = OPS[op]
    read = {key: a.read(attributes.get(key, a.default), len(dim) - 2) for key, a in record.attributes.items()}
    try:
        return record.access(read, {"input": dim}).dims["output"]
    except ConfigError:
        reject()


def is_taken(attributes):
    """Whether PyTorch has this padding: the same on both sides, at most half a window."""
    pairs = zip(attributes["padding"], attributes["size"], strict=True)
    return all(before == after <= size // 2 for (before, after), size in pairs)


def pooled(input, attributes, value, pool):
    """What `pool(input, padding)` gives, with `value` put around the input beforehand where it does not have the padding.

    What is put there counts as input, so that in ceil mode a window may start in it: the caller cuts those.
    """
    if is_taken(attributes):
        return pool(input, [before for before, _ in attributes["padding"]])
    return pool(F.pad(input, fold(attributes["padding"]), value=value), 0)


def cut(output, dim):
    return output[tuple(slice(n) for n in dim)]


@many
@given(st.data())
def test_max_pool_is_that_of_torch(data):
    dim, attributes = pooling(data)
    result = output_dim("max_pool", attributes, dim)
    size, stride, dilation, ceil = (attributes[key] for key in ("size", "stride", "dilation", "ceil"))

    def pool(input, padding):
        return MAX_POOL[len(dim) - 2](input, size, stride, padding, dilation, ceil_mode=ceil)

    def function(input):
        return cut(pooled(input, attributes, float("-inf"), pool), result)

    compare(data, "max_pool", attributes, {"input": dim}, function)


@many
@given(st.data())
def test_average_pool_is_that_of_torch(data):
    dim, attributes = pooling(data)
    if data.draw(st.booleans()):
        attributes["dilation"] = 1
    counted = attributes["count_padding"] = data.draw(st.booleans())
    result = output_dim("average_pool", attributes, dim)

    def pool(input, padding):
        size, stride, ceil = (attributes[key] for key in ("size", "stride", "ceil"))
        return AVERAGE_POOL[len(dim) - 2](input, size, stride, padding, ceil, count_include_pad=counted)

    def function(input):
        if attributes["dilation"] != 1:
            return dilated_mean(input, attributes, result)
        output = cut(pooled(input, attributes, 0.0, pool), result)
        if counted or is_taken(attributes):
            return output
        return output / cut(pooled(torch.ones_like(input), attributes, 0.0, pool), result)

    compare(data, "average_pool", attributes, {"input": dim}, function)


def dilated_mean(input, attributes, result):
    """PyTorch has no dilated mean: the sums are those of a convolution with ones, over the padding and what lies behind it."""
    pairs, size, stride, dilation = (attributes[key] for key in ("padding", "size", "stride", "dilation"))
    channels, padding = input.shape[1], fold(pairs)
    reaches = zip(result[2:], input.shape[2:], pairs, size, stride or size, dilation, strict=True)
    behind = fold([(0, max(0, (m - 1) * s + d * (k - 1) + 1 - sum(pair) - n)) for m, n, pair, k, s, d in reaches])

    def sums(values):
        ones = torch.ones(channels, 1, *size, dtype=values.dtype)
        conv = CONV[len(size)](F.pad(values, behind), ones, None, stride or size, 0, dilation, channels)
        return cut(conv, result)

    ones = torch.ones_like(input)
    counts = sums(F.pad(ones, padding, value=float(attributes["count_padding"])))
    return sums(F.pad(input, padding)) / counts


@many
@given(st.data())
def test_global_max_pool_is_that_of_torch(data):
    n, extents = spatial(data)
    dim = (n, data.draw(st.integers(1, 4)), *extents)
    pool = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}[len(extents)]
    equal = data.draw(st.booleans())

    def numbers(random, dim):
        return random.integers(0, 3, dim) if equal else random.normal(size=dim)

    values = {"input": numbers}
    compare(data, "global_max_pool", {}, {"input": dim}, lambda input: pool(input, 1), values=values)


@many
@given(st.data())
def test_local_response_norm_is_that_of_torch(data):
    dim = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 8)),
        *data.draw(st.lists(st.integers(1, 4), max_size=3)),
    )
    attributes = {"size": data.draw(st.integers(1, 6))}
    for key, least, most in (("alpha", 0.0, 2.0), ("beta", 0.1, 1.5), ("k", 0.5, 2.0)):
        attributes[key] = data.draw(st.floats(least, most))

    def function(input):
        """Its even windows reach one channel further down, ours one further up."""
        volume = input.flip(1).reshape(dim[0], dim[1], -1)
        return F.local_response_norm(volume, **attributes).reshape(dim).flip(1)

    compare(data, "local_response_norm", attributes, {"input": dim}, function)
