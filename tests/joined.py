"""Networks that join and reshape tensors, on meshes of several sizes."""

from tests.networks import config_text

MESHES = {1: "{y: 1, x: 1}", 2: "{y: 1, x: 2}", 3: "{y: 3, x: 1}", 4: "{y: 2, x: 2}", 6: "{y: 3, x: 2}"}
SPATIAL = "split: {H: y, W: x}"
RESIDUAL = [
    f"{{name: A, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, {SPATIAL}}}",
    f"{{name: B, conv: {{channels: 4, size: 3, padding: 1}}, {SPATIAL}}}",
    "{name: sum, add: {}, inputs: [A, B], nonlinearity: tanh}",
    f"{{name: C, conv: {{channels: 3, size: 3, padding: 1}}, {SPATIAL}}}",
    "{name: joined, concat: {}, inputs: [C, sum, C]}",
    f"{{name: out, softmax: {{classes: 3}}, {SPATIAL}, loss_split: {{N: [y, x]}}}}",
]
NETWORKS = {
    "residual": RESIDUAL,
    "branches": [
        "{name: A, conv: {channels: 3, size: 1}, input: data, split: {N: [y, x]}}",
        "{name: B, conv: {channels: 4, size: 3, padding: 1}, nonlinearity: tanh, input: data, split: {O: [y, x]}}",
        "{name: C, conv: {channels: 2, size: 3, padding: 1}, input: data, split: {C: y, W: x}}",
        "{name: D, max_pool: {size: 3, stride: 1, padding: 1}, input: data, split: {H: {axes: y, sizes: [REST, 8]}}}",
        "{name: joined, concat: {axis: C}, inputs: [A, B, C, D], split: {C: [y, x]}}",
        "{name: F, flatten: {}, split: {N: x, C: y}}",
        "{name: G, linear: {features: 5}, nonlinearity: tanh, split: {K: y, N: x}}",
        "{name: out, softmax: {classes: 3}, split: {K: [x, y]}, loss_split: {N: y}}",
    ],
    "followed branches": [
        "{name: A, conv: {channels: 5, size: 1}, input: data, split: {O: [y, x]}}",
        "{name: B, conv: {channels: 1, size: 3, padding: 1}, input: data, split: {N: y, O: x}}",
        "{name: joined, concat: {axis: 1}, inputs: [A, B, A]}",
        "{name: G, conv: {channels: 4, size: 3}, nonlinearity: tanh, split: {C: y, O: x}}",
        "{name: rows, concat: {axis: H}, inputs: [G, G]}",
        "{name: out, softmax: {classes: 3}, split: {C: [x, y]}}",
    ],
    "gates": [
        f"{{name: A, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, {SPATIAL}}}",
        "{name: G, linear: {features: 4}, nonlinearity: logistic, input: A, split: {K: y, N: x}}",
        f"{{name: M, conv: {{channels: 1, size: 1}}, input: A, {SPATIAL}}}",
        "{name: P, multiply: {}, inputs: [A, G, M], split: {C: x, W: y}}",
        "{name: Q, multiply: {}, inputs: [G, P, P]}",
        "{name: R, add: {}, inputs: [G, Q, Q, M], split: {N: y, H: x}}",
        "{name: out, softmax: {classes: 3}}",
    ],
    "encoder and decoder": [
        f"{{name: A, conv: {{channels: 3, size: 3, padding: 1}}, nonlinearity: tanh, {SPATIAL}}}",
        f"{{name: B, max_pool: {{size: 2}}, {SPATIAL}}}",
        f"{{name: C, conv: {{channels: 4, size: 3, padding: 1}}, nonlinearity: tanh, {SPATIAL}}}",
        "{name: U, upsample: {scale: 2}}",
        "{name: V, upsample: {scale: [2, 2], mode: linear}, input: C}",
        "{name: J, concat: {}, inputs: [A, U, V]}",
        "{name: D, upsample: {scale: [1, 3], mode: linear}, input: J, split: {W: [x, y]}}",
        "{name: E, crop: {margin: [1, [7, 2]]}}",
        f"{{name: out, softmax: {{classes: 3}}, {SPATIAL}}}",
    ],
    "shapes": [
        f"{{name: A, conv: {{channels: 6, size: 3, padding: 1}}, nonlinearity: tanh, {SPATIAL}}}",
        "{name: P, pad: {padding: [[1, 2], 3], value: 0.5}}",
        "{name: S, slice: {H: [2, null, 2], W: [-9, -1], C: [1, 5]}}",
        "{name: T, transpose: {order: NHWC}, split: {C: y, W: x}}",
        "{name: B, conv: {channels: 4, size: 1}, nonlinearity: tanh}",
        "{name: Q, slice: {N: [0, 6, 1], H: [3, 4]}, split: {N: y, C: x}}",
        "{name: R, reshape: {shape: [0, 2, -1]}, split: {C: x}}",
        "{name: U, reshape: {shape: [0, 4, -1, 1]}, split: {N: y}}",
        "{name: V, reshape: {shape: [0, 8, 1, 2]}}",
        "{name: out, softmax: {classes: 3}}",
    ],
    "dimensions without common factors": [
        f"{{name: A, conv: {{channels: 3, size: 1}}, nonlinearity: tanh, {SPATIAL}}}",
        "{name: R, reshape: {shape: [0, 8, 24]}, split: {N: [y, x]}}",
        "{name: S, reshape: {shape: [9, -1, 8]}}",
        "{name: T, reshape: {shape: [6, 3, 64]}}",
        "{name: out, softmax: {classes: 3}, split: {N: x, C: y}}",
    ],
}


def text_of(name, ranks, **options):
    """A network on so many ranks; REST stands for what the last rank along y leaves to the others: nothing."""
    rows = int(MESHES[ranks][4]) - 1
    lines = [line.replace("[REST, 8]", str([0] * rows + [8])) for line in NETWORKS[name]]
    return config_text(lines, MESHES[ranks], **options)
