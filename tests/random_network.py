"""Random networks on random layouts, as config text: layers, losses, data, optimizer.

Whatever is drawn leads to a loss: the leaves of the graph get losses of their own, or are joined before one.
"""

from copy import deepcopy
from math import prod

from hypothesis import strategies as st

from dgraph.config import to_yaml
from dgraph.program import compile_config
from tests.networks import load
from tests.random_layer import Draft, block, branches, join, layer, named, opened
from tests.test_equality import splits

MESHES = [[1], [2], [3], [4], [5], [6], [2, 2], [2, 3], [3, 2], [1, 4], [2, 1, 3], [2, 2, 1], [1, 1, 2]]
LONGEST = {0: 0, 1: 8, 2: 6, 3: 4}
"""The largest extent of a sample, by the number of spatial dimensions."""
CLASSES = 3
CONFIG = """name: random
dtype: float64
seed: {seed}
mesh: {mesh}
data: {data}
train: {{optimizer: {optimizer}, steps: 3, shard: {shard}}}
"""
OPTIMIZERS = (
    "{sgd: {rate: 0.05}}",
    "{sgd: {rate: 0.05, momentum: 0.9}}",
    "{adam: {rate: 0.01, epsilon: 0.01}}",
    "{lars: {rate: 1}}, clip: 0.5, average: mean",
    "{lamb: {rate: 0.01, epsilon: 0.01}}, clip: 0.5, penalty: {l1: 0.01, l2: 0.01}",
)
"""The rule, perhaps with what goes with it in the section `train`."""
ERRORS = ("squared_error", "half_squared_norm", "absolute_error", "huber")
KINDS_OF_LABELS = ("classes", "classes", "places", "targets", "binary")


def labels(draft, shape):
    """(kind of labels, label shape, classes) of the data."""
    kind = draft.pick(*KINDS_OF_LABELS)
    if kind == "classes":
        return kind, (1,), CLASSES
    spatial = draft.pick(tuple(shape[1:]), tuple(draft.integer(1, 4) for _ in shape[1:]))
    if kind == "places":
        return kind, (1, *spatial), CLASSES
    space = draft.pick((), spatial)
    return kind, (draft.integer(1, 3), *space), None if kind == "targets" or draft.now_and_then() else 2


def scores(draft, leaf, channels, spatial):
    """A layer [N, channels, spatial ...] of what a leaf gives; None where that is too large."""
    wanted = (draft.batch, channels, *spatial)
    dim = draft.dims[leaf]
    if dim[0] != draft.batch or not 2 <= len(dim) <= 5:
        leaf = draft.add("reshape", {"shape": [draft.batch, -1]}, [leaf])
        dim = draft.dims[leaf]
    if dim[2:] == spatial and spatial and draft.integer(0, 2):
        return draft.add("conv", {"channels": channels, "size": 1}, [leaf])
    leaf = draft.add("linear", {"features": prod(wanted[1:])}, [leaf])
    if leaf and draft.dims[leaf] != wanted:
        leaf = draft.add("reshape", {"shape": list(wanted)}, [leaf])
    return leaf


def loss(draft, leaf, kind, label_shape):
    """Adds a loss of a leaf."""
    weight = draft.pick({}, {}, {"weight": 0.3})
    smoothing = draft.pick({}, {"smoothing": 0.2})
    mesh, batch = draft.mesh, draft.batch
    samples = draft.pick("", f", SPLIT: {draft.draw(splits(mesh, ['N'], {'N': batch}))}")
    name = f"L{len(draft.lines)}"
    if kind == "classes" and draft.dims[leaf][0] == batch and 2 <= len(draft.dims[leaf]) <= 5 and draft.integer(0, 2):
        attributes = {"classes": CLASSES + draft.integer(0, 1), "bias": draft.pick(True, False)} | weight | smoothing
        split = draft.layout(*opened("linear", {"features": attributes["classes"]}, draft.dims[leaf]))
        samples = samples.replace("SPLIT", "loss_split")
        draft.lines.append(f"{{name: {name}, softmax: {named(attributes)}, input: {leaf}{split}{samples}}}")
        return
    channels = CLASSES + draft.integer(0, 1) if kind in ("classes", "places") else label_shape[0]
    spatial = tuple(label_shape[1:])
    given = scores(draft, leaf, channels, spatial)
    if kind in ("classes", "places"):
        op, attributes = draft.pick(("cross_entropy", smoothing), ("negative_log_likelihood", {}))
        before = "softmax" if op == "negative_log_likelihood" else ""
    elif kind == "binary":
        op = draft.pick("binary_cross_entropy", "perceptron")
        attributes = {"logits": draft.pick(True, False)} if op == "binary_cross_entropy" else {}
        before = "logistic" if attributes.get("logits") is False else ""
    else:
        op = draft.pick(*ERRORS)
        attributes, before = {"delta": draft.pick(0.5, 2)} if op == "huber" else {}, ""
    if before:
        given = draft.add("nonlinearity", {}, [given], f"nonlinearity: {before}", layout=before != "softmax")
    samples = samples.replace("SPLIT", "split")
    line = f"{{name: L{len(draft.lines)}, {op}: {named(attributes | weight)}, input: {given}{samples}}}"
    draft.lines.append(line)


def joined(draft, leaves):
    """One layer of what several leaves give."""
    ends = []
    for leaf in leaves:
        end = scores(draft, leaf, 2, ())
        ends.append(end)
    return draft.add(draft.pick("add", "multiply", "concat"), {}, ends)


def data(draft, shape, label_shape, classes):
    """The section `data`: now and then with a last batch that is not whole, or fewer samples than a batch."""
    batch = draft.batch
    keys = {
        "source": "synthetic", "shape": list(shape), "batch": batch, "samples": draft.integer(max(1, batch - 1), 3 * batch)
    }  # fmt: skip
    keys["shares"] = {"train": 1}
    keys |= {"classes": classes} if classes else {}
    keys |= {"label_shape": list(label_shape)} if prod(label_shape) > 1 or not classes else {}
    keys |= draft.pick({}, {"read": "same"}, {"read": "rect"})
    text = named(keys)
    if draft.now_and_then(3):
        text = text[:-1] + f", split: {draft.draw(splits(draft.mesh, ['N', 'C'], {'N': batch}))}}}"
    return text


@st.composite
def networks(draw):
    """A whole config: 1 to 6 ranks, 0 to 3 spatial dimensions, and mostly fewer than ten layers."""
    mesh = dict(zip("zyx", draw(st.sampled_from(MESHES)), strict=False))
    batch, count = draw(st.integers(1, 4)), draw(st.sampled_from([0, 1, 2, 2, 2, 3]))
    shape = (draw(st.integers(1, 4)), *(draw(st.integers(1, LONGEST[count])) for _ in range(count)))
    draft = Draft(draw, mesh, batch, {"data": (batch, *shape)})
    kind, label_shape, classes = labels(draft, shape)
    section = data(draft, shape, label_shape, classes)
    for _ in range(draft.integer(1, 5)):
        draft.pick(layer, layer, layer, layer, join, branches, block)(draft)
    leaves = draft.unread or ["data"]
    if len(leaves) > 1 and draft.now_and_then(2):
        leaves = [joined(draft, leaves)]
    if draft.now_and_then(3):
        leaves = [*leaves, draft.source()]
    for leaf in leaves:
        loss(draft, leaf, kind, label_shape)
    text = CONFIG.format(
        seed=draft.integer(0, 99), mesh=named(mesh), data=section, optimizer=draft.pick(*OPTIMIZERS),
        shard=named(draft.pick(True, False)),
    )  # fmt: skip
    if draft.blocks:
        text += "blocks:\n" + "".join(f"  {name}: {body}\n" for name, body in draft.blocks.items())
    return text + "layers:\n" + "".join(f"  - {line}\n" for line in draft.lines)


def with_shared_parameters(program):
    """The node form of a program in which one parameter stands for another of its dim, too; None where no two have the same."""
    plain, first = program.expanded(), {}
    pairs = [(first.setdefault((p.dim, p.attributes["port"]), p.name), p.name) for p in program.forward.parameters]
    kept, gone = next((pair for pair in pairs if pair[0] != pair[1]), (None, None))
    if kept is None:
        return None
    for node in plain["nodes"]:
        for port, read in node.get("inputs", {}).items():
            names = [kept if name == gone else name for name in ([read] if isinstance(read, str) else read)]
            node["inputs"][port] = list(dict.fromkeys(names)) if port == "params" else names
    del plain["parameters"][gone]
    return plain


def places(value, path=()):
    """The paths of all values within a value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(value, path):
    """The value at a path."""
    for key in path:
        value = value[key]
    return value


ODD = (
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    7,
    -1,
    1000,
    0.5,
    -0.5,
    1e300,
    "",
    "C",
    "HW",
    "NHWC",
    "y",
    "data",
    "L0",
    "$x",
    [],
    {},
    [1],
    [0, 1, 2],
    [[1, 2]],
)


@st.composite
def mutants(draw):
    """A config that is right but for one value, which was taken out, or has that of another place, or an odd one."""
    config = load(draw(networks()))
    plain = config.resolved()
    if draw(st.booleans()):
        plain = compile_config(config).expanded()
    paths = list(places(plain))
    path = draw(st.sampled_from(paths))
    *outer, key = path
    change = draw(st.sampled_from(["out", "other", "odd"]))
    if change == "out":
        del at(plain, outer)[key]
    else:
        at(plain, outer)[key] = (
            deepcopy(at(plain, draw(st.sampled_from(paths)))) if change == "other" else draw(st.sampled_from(ODD))
        )
    return to_yaml(plain)
