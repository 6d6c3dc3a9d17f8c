"""Random layers on random layouts: every kind but losses, alone, joined and in blocks, as config text.

Each layer fits what it reads, by the access maps of its op, and has a split of its own or none.
"""

import json
from dataclasses import dataclass, field
from itertools import chain
from math import prod

from hypothesis import strategies as st

from dgraph.error import ConfigError
from dgraph.ops import OPS
from dgraph.ops.letter import letters_of
from tests.test_equality import splits, windows
from tests.test_join_layouts import changes

MOST = 1200
"""So many elements has no tensor more than."""
OVER = {"batch_norm": "batch", "layer_norm": "sample", "group_norm": "sample", "instance_norm": "space"}
NORMS = {"batch": ["momentum"], "layer": [], "group": ["groups"], "instance": []}
FILTERS = ["conv", "conv_transpose", "tiled", "linear"]
SPATIAL = [*FILTERS, "max_pool", "average_pool", "global_max_pool", "global_average_pool", "upsample"]
ANY = ["linear", "affine", "nonlinearity", "local_response_norm", "dropout", *OVER]
SHAPING = ["change", "change", "margin"]


def named(value):
    """A value in YAML's flow style, which JSON is."""
    return json.dumps(value)


def opened(kind, attributes, *dims):
    """(record, access) of the op that a layer of a kind starts with; ConfigError where it does not fit."""
    attributes = {key: value for key, value in attributes.items() if value is not None}
    if kind in OVER:
        kind, attributes = "mean", {"over": OVER[kind], **{k: v for k, v in attributes.items() if k == "groups"}}
    elif kind == "global_average_pool":
        kind, attributes = "mean", {"over": "space"}
    elif kind in ("affine", "nonlinearity"):
        kind, attributes = "identity", {}
    record, spatial = OPS[kind], len(dims[0]) - 2
    read = {key: one.read(attributes.get(key, one.default), spatial) for key, one in record.attributes.items()}
    ports = [f"input{k}" for k in range(len(dims))] if record.many else ["input"]
    return record, record.access(read, dict(zip(ports, dims, strict=True)))


@dataclass
class Draft:
    """A network being drawn: its lines, the dims of what may be read, and what nothing reads yet."""

    draw: object
    mesh: dict
    batch: int
    dims: dict
    lines: list = field(default_factory=list)
    unread: list = field(default_factory=list)
    blocks: dict = field(default_factory=dict)

    def integer(self, least, most):
        return self.draw(st.integers(least, most))

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def now_and_then(self, often=4):
        return self.integer(1, often) == 1

    def source(self):
        """A layer to read, mostly the last."""
        names = list(self.dims)
        return names[-1] if self.integer(0, 2) else self.pick(*names)

    def layout(self, record, access):
        """Keys `split` and `pieces`, or neither: the layer follows its input."""
        extents = dict(zip(access.space.labels, access.space.extents, strict=True))
        cuts = {}
        for letter, target in record.cuts(access).items():
            labels = target if isinstance(target, tuple) else (target,)
            if not {*labels} & {*record.uncut} and not {*labels} & {*chain(*cuts.values())}:
                cuts[letter] = labels
        sizes = {letter: prod(extents[label] for label in labels) for letter, labels in cuts.items()}
        text = ""
        if cuts and self.integer(0, 2):
            text = f", split: {self.draw(splits(self.mesh, sorted(cuts), sizes))}"
        if cuts and "sizes" not in text and self.now_and_then(6):
            text += f", pieces: {{{self.pick(*sorted(cuts))}: {self.integer(1, 4)}}}"
        return text

    def add(self, kind, attributes, sources, extras="", layout=True, dim=None):
        """Adds a layer, unless it does not fit or is too large; its name or None. `dim` of the result, if its op does not say."""
        dims = [self.dims[source] for source in sources]
        try:
            record, access = opened(kind, attributes, *dims)
        except ConfigError:
            return None
        result = dim or access.dims["output"]
        if prod(result) > MOST or prod(result) % self.batch:
            return None
        name = f"L{len(self.lines)}"
        reads = f", inputs: {named(sources)}" if record.many else f", input: {sources[0]}"
        given = {key: value for key, value in attributes.items() if value is not None}
        body = "" if kind in ("affine", "nonlinearity") else f"{kind}: {named(given)}"
        keys = ", ".join(part for part in (body, extras) if part)
        place = self.layout(record, access) if layout else ""
        self.lines.append(f"{{name: {name}, {keys}{reads}{place}}}")
        self.dims[name] = result
        self.unread = [leaf for leaf in self.unread if leaf not in sources] + [name]
        return name


def per_dimension(draft, extents, least, most):
    return [draft.integer(least, most) for _ in extents]


def conv(draft, dim):
    _, c, *extents = dim
    size, stride, padding, dilation = draft.draw(windows(extents, most=5))
    groups = draft.pick(*[g for g in (1, 2, 3, c) if c % g == 0])
    window = {"size": size, "stride": stride, "padding": padding, "dilation": dilation}
    return {"channels": groups * draft.integer(1, 3), "groups": groups, **window}


def conv_transpose(draft, dim):
    _, c, *extents = dim
    groups = draft.pick(*[g for g in (1, 2, 3, c) if c % g == 0])
    return {
        "channels": groups * draft.integer(1, 2),
        "groups": groups,
        "size": per_dimension(draft, extents, 1, 4),
        "stride": per_dimension(draft, extents, 1, 4),
        "padding": [[draft.integer(0, 2), draft.integer(0, 2)] for _ in extents],
        "output_padding": per_dimension(draft, extents, 0, 2),
        "dilation": per_dimension(draft, extents, 1, 2),
    }


def tiled(draft, dim):
    _, _, *extents = dim
    size, stride, _, _ = draft.draw(windows(extents, 1, 4))
    return {
        "channels": draft.integer(1, 3), "tile": per_dimension(draft, extents, 1, 2), "size": size, "stride": stride
    }  # fmt: skip


def pool(draft, dim):
    _, _, *extents = dim
    size, dilation = [draft.integer(1, min(4, n)) for n in extents], per_dimension(draft, extents, 1, 2)
    reaches = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    return {
        "size": size,
        "dilation": dilation,
        "stride": draft.pick(None, per_dimension(draft, extents, 1, 4)),
        "padding": [[draft.integer(0, reach - 1), draft.integer(0, reach - 1)] for reach in reaches],
        "ceil": draft.pick(None, True),
    }


def norm(draft, dim, name):
    """Attributes of a norm."""
    given = {"epsilon": draft.pick(None, 1e-3, 0.1, 1), "affine": draft.pick(None, False)}
    if name == "batch":
        given["momentum"] = draft.pick(None, 0.5, 1)
    if name == "group":
        given["groups"] = draft.pick(*[g for g in (1, 2, 3, dim[1]) if dim[1] % g == 0])
    return {key: value for key, value in given.items() if value is not None}


def nonlinearity(draft, dim):
    """The value of a key `nonlinearity`."""
    letters = letters_of(len(dim))
    spans = "".join(draft.draw(st.lists(st.sampled_from(letters), unique=True)))
    kinds = ["tanh", "logistic", "relu", "silu", "gelu", "softplus", "elu", "leaky_relu", "identity"]
    with_keys = [{"leaky_relu": {"slope": 0.2}}, {"elu": {"alpha": 0.5}}, {"softplus": {"beta": 2}}]
    with_keys += [{"gelu": {"approximate": "tanh"}}, {"softmax": {"axis": draft.pick(*letters)}}]
    if len(dim) > 1:
        with_keys += [{"prelu": {"spans": spans}}, "prelu"]
    return named(draft.pick(*kinds, *with_keys))


def extras(draft, kind, dim):
    """Other keys of a layer: bias, norm, nonlinearity, initial values, updates."""
    keys = []
    if kind in FILTERS and draft.now_and_then():
        name = draft.pick(*NORMS)
        keys.append(f"norm: {named({name: norm(draft, dim, name)})}")
    letters = "".join(draft.draw(st.lists(st.sampled_from(letters_of(len(dim))), unique=True)))
    affine = {"scale": draft.pick(True, False), "bias": draft.pick("all", "none", "C", letters or "C")}
    if kind == "affine":
        keys.append(f"affine: {named({**affine, 'scale': draft.pick(True, letters or 'C')})}")
    elif kind in FILTERS and draft.now_and_then():
        keys.append(f"affine: {named(affine)}")
    if kind == "nonlinearity" or draft.now_and_then(2):
        keys.append(f"nonlinearity: {nonlinearity(draft, dim)}")
    if kind in FILTERS and draft.now_and_then():
        keys.append(draft.pick("init: {normal: {deviation: 0.3}}", "init: he", "init: {truncated_normal: {}}"))
    if kind in (*FILTERS, "affine", *OVER) and draft.now_and_then():
        keys.append(f"shard: {named(draft.pick(True, False))}")
    if kind in FILTERS and draft.now_and_then():
        keys.append(f"update_split: {draft.draw(splits(draft.mesh, ['X0', 'X1'], {}))}")
    return ", ".join(keys)


def attributes_of(draft, kind, dim):
    """(kind, attributes) of a layer that reads one tensor."""
    match kind:
        case "conv":
            return conv(draft, dim)
        case "conv_transpose":
            return conv_transpose(draft, dim)
        case "tiled":
            return tiled(draft, dim)
        case "linear":
            return {"features": draft.integer(1, 6)}
        case "max_pool":
            return pool(draft, dim)
        case "average_pool":
            return pool(draft, dim) | {"count_padding": draft.pick(True, False)}
        case "upsample":
            return {"scale": per_dimension(draft, dim[2:], 1, 3), "mode": draft.pick("nearest", "linear")}
        case "local_response_norm":
            return {"size": draft.integer(1, 5), "alpha": draft.pick(None, 0.5), "k": draft.pick(None, 2)}
        case "dropout":
            return {"rate": draft.pick(0.3, 0, 0.5)}
        case _ if kind in OVER:
            return norm(draft, dim, kind.removesuffix("_norm"))
    return {}


def layer(draft):
    """Adds a layer that reads one tensor, if it fits."""
    source = draft.source()
    dim = draft.dims[source]
    kinds = [*SHAPING]
    if 2 <= len(dim) <= 5:
        kinds += ANY
    if 3 <= len(dim) <= 5:
        kinds += [*SPATIAL, "conv", "conv", "margin"]
    kind = draft.pick(*kinds)
    if kind == "change":
        kind, attributes, dims = draft.draw(changes(dim))
        draft.add(kind, attributes, [source] * len(dims), "nonlinearity: tanh" if draft.now_and_then() else "")
    elif kind == "margin":
        kind, key = draft.pick(("crop", "margin"), ("pad", "padding"))
        margins = [draft.pick(draft.integer(0, 2), [draft.integer(0, 2), draft.integer(0, 1)]) for _ in dim[2:]]
        draft.add(kind, {key: margins} if len(dim) > 2 else {"C": [0, 1]}, [source])
    else:
        attributes = attributes_of(draft, kind, dim)
        try:
            result = opened(kind, attributes, dim)[1].dims["output"]
        except ConfigError:
            return
        result = dim if kind in OVER else result
        keys = extras(draft, kind, result)
        draft.add(kind, attributes, [source], keys, not (kind == "nonlinearity" and "softmax" in keys), result)


def join(draft):
    """Adds a sum, product or concatenation of two or three tensors that fit, which may be one tensor several times."""
    first = draft.source()
    dim = draft.dims[first]
    kind = draft.pick("add", "multiply", "concat")
    axis = draft.integer(0, len(dim) - 1)

    def fits(other):
        if kind == "concat":
            return len(other) == len(dim) and other[:axis] + other[axis + 1 :] == dim[:axis] + dim[axis + 1 :]
        pairs = zip(reversed(other), reversed(dim), strict=False)
        return all(a == b or 1 in (a, b) for a, b in pairs)

    partners = sorted(name for name, other in draft.dims.items() if fits(other) and name != "data") or [first]
    sources = [first, *(draft.pick(*partners) for _ in range(draft.integer(1, 2)))]
    sources = draft.draw(st.permutations(sources))
    draft.add(kind, {"axis": axis} if kind == "concat" else {}, sources, draft.pick("", "nonlinearity: tanh"))


def branches(draft):
    """Adds two or three layers that read one tensor and keep its dim but for the channels, each in a layout of its own, and
    what joins them."""
    source = draft.source()
    dim = draft.dims[source]
    if not 2 <= len(dim) <= 5:
        return
    joined = draft.pick("add", "multiply", "concat")
    channels = draft.integer(1, 4)
    ends = []
    for _ in range(draft.integer(2, 3)):
        own = draft.integer(1, 4) if joined == "concat" else draft.pick(channels, channels, 1)
        if len(dim) == 2:
            attributes, kind, result = {"features": own}, "linear", (dim[0], own)
        else:
            size = draft.pick(1, 3)
            attributes, kind = {"channels": own, "size": size, "padding": size // 2}, "conv"
            result = (dim[0], own, *dim[2:])
        ends.append(draft.add(kind, attributes, [source], extras(draft, kind, result)))
    if None not in ends:
        draft.add(joined, {}, ends)


def block(draft):
    """Adds instances of a residual block, repeated."""
    source = draft.source()
    dim = draft.dims[source]
    if not 2 <= len(dim) <= 5 or prod(dim) > MOST:
        return
    name = f"block{len(draft.blocks)}"
    if len(dim) == 2:
        kind, attributes, result = "linear", {"features": dim[1]}, dim
    else:
        kind, attributes, result = "conv", {"channels": dim[1], "size": "$size", "padding": "$padding"}, dim
    one = extras(draft, kind, result)
    function = nonlinearity(draft, dim)
    split = draft.layout(*opened("add", {}, dim, dim)) if draft.now_and_then(2) else ""
    parameters = {"size": 1, "padding": 0} if kind == "conv" else {}
    draft.blocks[name] = (
        f"{{parameters: {named(parameters)}, layers: [{{name: one, {kind}: {named(attributes)}"
        f"{', ' + one if one else ''}}}, {{name: sum, add: {{}}, inputs: [one, $input], nonlinearity: {function}}}]}}"
    )
    given = named({name: {"size": 3, "padding": 1}} if kind == "conv" and draft.now_and_then(2) else {name: {}})
    own = f"L{len(draft.lines)}"
    repeat = draft.pick("", ", repeat: 2", ", repeat: 3")
    draft.lines.append(f"{{name: {own}, block: {given}, input: {source}{repeat}{split}}}")
    draft.dims[own] = dim
    draft.unread = [leaf for leaf in draft.unread if leaf != source] + [own]
