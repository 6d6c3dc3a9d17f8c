"""Blocks: what an instance stands for, which names its layers see, and what is refused with which line."""

from pathlib import Path

import pytest
import yaml

from dgraph.config import parse_config, to_yaml
from dgraph.error import ConfigError
from dgraph.program import compile_config

README = Path(__file__).parents[1] / "README.md"
FRAME = """\
mesh: {y: 2, x: 2}
data: {source: synthetic, shape: [3, 16, 16], classes: 10, batch: 4}
train: {optimizer: {sgd: {rate: 0.1}}, steps: 1}
"""
UNIT = """
  unit:
    parameters: {channels: , size: 1, stride: 1, padding: 0}
    layers:
      - {conv: {channels: $channels, size: $size, stride: $stride, padding: $padding}, nonlinearity: relu}
"""
BOTTLENECK = """
  bottleneck:
    parameters: {channels: , out: , stride: 1, project: false}
    layers:
      - {name: conv1, block: {unit: {channels: $channels}}}
      - {name: conv2, block: {unit: {channels: $channels, size: 3, stride: $stride, padding: 1}}}
      - {name: conv3, conv: {channels: $out, size: 1}}
      - {name: shortcut, when: $project, conv: {channels: $out, size: 1, stride: $stride}, input: $input}
      - {name: add, add: {}, inputs: [conv3, shortcut], nonlinearity: relu}
"""


def config(layers, blocks="", overrides=()):
    text = f"{FRAME}{'blocks:' if blocks else ''}{blocks}\nlayers:\n" + "\n".join(f"  - {one}" for one in layers)
    return parse_config(text, "c.yaml", overrides)


def expanded(layers, blocks="", overrides=()):
    """The layers written out: name -> (kind, channels, what it reads)."""
    return {
        layer.name: (layer.kind, layer.attributes.get("channels"), list(layer.reads))
        for layer in config(layers, blocks, overrides).layers
    }


def fault(layers, blocks="", overrides=()):
    with pytest.raises(ConfigError) as caught:
        config(layers, blocks, overrides)
    return str(caught.value)


def test_an_instance_stands_for_its_layers():
    assert expanded(["{name: s, block: {bottleneck: {channels: 4, out: 8, project: true}}}"], UNIT + BOTTLENECK) == {
        "s.conv1": ("conv", 4, []),
        "s.conv2": ("conv", 4, []),
        "s.conv3": ("conv", 8, []),
        "s.shortcut": ("conv", 8, ["data"]),
        "s.add": ("add", None, ["s.conv3", "s.shortcut"]),
    }


def test_copies_are_chained_and_what_is_left_out_is_transparent():
    layers = expanded(
        [
            "{name: stem, block: {unit: {channels: 8}}}",
            "{name: s, block: {bottleneck: {channels: 4, out: 8}}, repeat: 3, first: {project: true}, last: {out: 9}}",
            "{name: out, linear: {features: 5}}",
            "{name: side, linear: {features: 5}, input: s}",
            "{name: within, linear: {features: 5}, input: s.1}",
            "{name: deep, linear: {features: 5}, input: s.0.conv1}",
        ],
        UNIT + BOTTLENECK,
    )
    assert [name for name in layers if name.startswith("s.") and name.endswith("shortcut")] == ["s.0.shortcut"]
    assert layers["s.0.shortcut"] == ("conv", 8, ["stem"])
    assert layers["s.0.add"][2] == ["s.0.conv3", "s.0.shortcut"]
    assert layers["s.1.add"][2] == ["s.1.conv3", "s.0.add"]
    assert layers["s.2.add"][2] == ["s.2.conv3", "s.1.add"]
    assert (layers["s.0.conv3"][1], layers["s.2.conv3"][1]) == (8, 9)
    assert [layers[name][2] for name in ("out", "side", "within", "deep")] == [
        [],
        ["s.2.add"],
        ["s.1.add"],
        ["s.0.conv1"],
    ]


def test_each_gives_every_copy_its_value():
    stage = "{name: s, block: {unit: {size: 3}}, each: {channels: [4, 8, 16], padding: [[1, [0, 2]], 0, 1]}}"
    layers = {layer.name: layer.attributes for layer in config([stage], UNIT).layers}
    assert [layers[f"s.{k}"]["channels"] for k in range(3)] == [4, 8, 16]
    assert [layers[f"s.{k}"]["padding"] for k in range(3)] == [(1, (0, 2)), 0, 1]


def test_a_layer_alone_repeats():
    assert expanded(
        ["{name: c, repeat: 2, conv: {channels: 4, size: 1}}", "{name: d, nonlinearity: relu, input: c}"]
    ) == {
        "c.0": ("conv", 4, []),
        "c.1": ("conv", 4, []),
        "d": ("nonlinearity", None, ["c.1"]),
    }


def test_parameters_take_values_of_any_kind():
    blocks = """
  any:
    parameters: {conv: , function: {leaky_relu: {slope: 0.5}}, init: he, body: {kernel: {size: 3}}}
    layers:
      - {name: a, conv: $conv, nonlinearity: $function, init: $init}
      - {name: b, block: $body}
  kernel:
    parameters: {size: }
    layers: [{conv: {channels: 2, size: $size}}]
"""
    layers = config(["{name: s, block: {any: {conv: {channels: 4, size: [1, 7], padding: [0, 3]}}}}"], blocks).layers
    assert [layer.name for layer in layers] == ["s.a", "s.b"]
    assert (layers[0].attributes["size"], layers[0].attributes["padding"]) == ((1, 7), (0, 3))
    assert layers[0].nonlinearity.attributes == {"slope": 0.5}
    assert layers[1].attributes["size"] == 3


def test_branches_read_the_input_of_the_block():
    blocks = """
  mixed:
    parameters: {pool: 4}
    layers:
      - {name: one, block: {unit: {channels: 2}}}
      - {name: three, block: {unit: {channels: 3}}, input: $input}
      - {name: wide, block: {unit: {channels: 5, size: [1, 3], padding: [0, 1]}}}
      - {name: pooled, average_pool: {size: 3, stride: 1, padding: 1}, input: $input}
      - {name: pool, block: {unit: {channels: $pool}}}
      - {name: concat, concat: {}, inputs: [one, wide, pool]}
"""
    assert expanded(["{name: m, block: mixed, repeat: 2}"], UNIT + blocks) == {
        "m.0.one": ("conv", 2, []),
        "m.0.three": ("conv", 3, ["data"]),
        "m.0.wide": ("conv", 5, []),
        "m.0.pooled": ("average_pool", None, ["data"]),
        "m.0.pool": ("conv", 4, []),
        "m.0.concat": ("concat", None, ["m.0.one", "m.0.wide", "m.0.pool"]),
        "m.1.one": ("conv", 2, []),
        "m.1.three": ("conv", 3, ["m.0.concat"]),
        "m.1.wide": ("conv", 5, []),
        "m.1.pooled": ("average_pool", None, ["m.0.concat"]),
        "m.1.pool": ("conv", 4, []),
        "m.1.concat": ("concat", None, ["m.1.one", "m.1.wide", "m.1.pool"]),
    }


def test_an_instance_reads_several_inputs():
    blocks = """
  up:
    parameters: {skip: }
    layers:
      - {name: scaled, conv: {channels: 2, size: 1}}
      - {name: joined, concat: {}, inputs: [scaled, $input1, $skip]}
      - {name: sum, add: {}, inputs: $inputs}
    output: joined
"""
    layers = expanded(
        [
            "{name: scaled, conv: {channels: 3, size: 1}}",
            "{name: below, conv: {channels: 3, size: 1}}",
            "{name: u, block: {up: {skip: scaled}}, inputs: [below, scaled]}",
            "{name: next, nonlinearity: relu}",
        ],
        blocks,
    )
    assert layers["u.scaled"][2] == []
    assert layers["u.joined"][2] == ["u.scaled", "scaled", "scaled"], (
        "a parameter's name is looked up where it was written"
    )
    assert layers["u.sum"][2] == ["below", "scaled"]
    assert layers["next"][2] == ["u.joined"]


def test_names_are_local_first_and_tensors_go_through():
    blocks = """
  b:
    layers:
      - {name: x, conv: {channels: 1, size: 1}}
      - {name: y, nonlinearity: relu, input: x}
      - {name: z, nonlinearity: relu, input: x.conv.output}
      - {name: w, nonlinearity: relu, input: top}
      - {name: v, nonlinearity: relu, input: top.conv.output}
"""
    layers = expanded(
        ["{name: x, conv: {channels: 1, size: 1}}", "{name: top, conv: {channels: 1, size: 1}}", "{name: i, block: b}"],
        blocks,
    )
    assert [layers[f"i.{name}"][2] for name in "yzwv"] == [["i.x"], ["i.x.conv.output"], ["top"], ["top.conv.output"]]


def test_conditions_choose_layers():
    blocks = """
  b:
    parameters: {max: }
    layers:
      - {name: largest, when: $max, max_pool: {size: 2}}
      - {name: mean, unless: $max, average_pool: {size: 2}}
"""
    layers = [
        "{name: i, block: {b: {max: true}}}",
        "{name: j, block: {b: {max: false}}}",
        "{name: aux, when: false, softmax: {classes: 10}}",
        "{name: end, nonlinearity: relu, input: aux}",
    ]
    assert expanded(layers, blocks) == {
        "i.largest": ("max_pool", None, []),
        "j.mean": ("average_pool", None, []),
        "end": ("nonlinearity", None, ["j.mean"]),
    }
    assert "aux" in expanded(layers[:3], blocks, ["layers.aux.when=true"])


def test_layers_take_from_the_instance_what_they_do_not_say():
    blocks = """
  b:
    layers:
      - {name: c, conv: {channels: 4, size: 1}}
      - {name: own, conv: {channels: 4, size: 1}, split: {N: y}, shard: false}
      - {name: sum, add: {}, inputs: [c, own]}
  outer:
    layers:
      - {name: inner, block: b, init: he}
"""
    layers = config(["{name: i, block: outer, split: {H: y, W: x}, shard: true, init: zero}"], blocks).layers
    assert [[*layer.split] for layer in layers] == [["H", "W"], ["N"], ["H", "W"]]
    assert [layer.shard for layer in layers] == [True, False, None]
    assert [layer.init and [*layer.init] for layer in layers] == [["he"], ["he"], None]


@pytest.mark.parametrize(("change", "channels"), [
    ("layers.s.first.channels=2", [2, 4, 4]),
    ("layers.s.1.conv.channels=6", [4, 6, 4]),
    ("layers.s.block.unit.channels=7", [7, 7, 7]),
    ("layers.s.repeat=2", [4, 4]),
    ("blocks.unit.layers.0.conv.channels=5", [5, 5, 5]),
])  # fmt: skip
def test_overrides_reach_instances_and_what_is_inside(change, channels):
    blocks = UNIT.replace("channels: $channels,", "channels: $channels, groups: $groups,").replace(
        "channels: ,", "channels: , groups: 1,"
    )
    if change.startswith("blocks"):
        blocks = blocks.replace("channels: , ", "").replace("$channels", "3")
    layers = [
        "{name: s, block: {unit: {channels: 4}}, repeat: 3}"
        if "$channels" in blocks
        else "{name: s, block: unit, repeat: 3}"
    ]
    found = expanded(layers, blocks, [change])
    assert [values[1] for values in found.values()] == channels


def test_a_copy_inside_can_be_overridden_on_its_own():
    layers = ["{name: s, block: {bottleneck: {channels: 4, out: 8}}, repeat: 2}"]
    found = config(layers, UNIT + BOTTLENECK, ["layers.s.1.conv2.split={H: y}", "layers.s.split={N: x}"]).layers
    assert [[*layer.split] for layer in found if layer.name.endswith("conv2")] == [["N"], ["H"]]


def test_the_expanded_config_loads_back_to_the_same():
    layers = [
        "{name: stem, block: {unit: {channels: 8, size: [1, 3], padding: [0, [1, 1]]}}}",
        "{name: s, block: {bottleneck: {channels: 4, out: 8, stride: 2}}, repeat: 2, first: {project: true}, last: {stride: 1}}",
        "{name: out, softmax: {classes: 10}, split: {N: y}}",
    ]
    blocks = UNIT + BOTTLENECK
    one = config(layers, blocks)
    text = to_yaml(one.resolved())
    assert "blocks" not in yaml.safe_load(text)
    again = parse_config(text)
    assert again.layers == one.layers
    graph = parse_config(to_yaml(compile_config(one).expanded()))
    assert [*compile_config(graph).graph.ops] == [*compile_config(one).graph.ops]


NESTED = """
  b:
    parameters: {size: }
    layers: [{name: c, conv: {channels: 4, size: $size}}]
  a:
    parameters: {size: 3}
    layers: [{name: inner, block: {b: {size: $size}}}]
"""
REFUSED = {
    "no such block": (
        "{name: s, block: unot}",
        UNIT,
        ":11:22: error: there is no block 'unot' (did you mean unit?)",
    ),
    "no section": (
        "{name: s, block: unit}",
        "",
        ":6:22: error: there is no block 'unit' (there is no section blocks)",
    ),
    "no name": (
        "{block: unit}",
        UNIT,
        ":11:5: error: an instance of a block needs the key name",
    ),
    "two blocks": (
        "{name: s, block: {unit: {}, b: {}}}",
        UNIT,
        ":11:22: error: block must be the name of a block, not a mapping (or a mapping from it to its parameters)",
    ),
    "unknown parameter": (
        "{name: s, block: {unit: {chanels: 3}}}",
        UNIT,
        ":11:30: error: block unit has no parameter 'chanels' (did you mean channels?)",
    ),
    "missing parameter": (
        "{name: s, block: unit}",
        UNIT,
        ":11:22: error: block unit needs the parameter channels (it has no default)",
    ),
    "missing inside": (
        "{name: s, block: outer}",
        UNIT + "\n  outer: {layers: [{name: i, block: unit}]}",
        ":10:37: error: block unit needs the parameter channels (it has no default; in block outer, used as s, "
        "line 12)",
    ),
    "of no block": (
        "{name: s, conv: {channels: $c, size: 1}}",
        "",
        ":6:32: error: there is no parameter '$c' (only blocks have parameters)",
    ),
    "unknown in a template": (
        "{name: s, conv: {channels: 3, size: 1}}",
        "\n  b: {parameters: {q: 1}, layers: [{conv: {size: $r}}, ]}",
        ":5:50: error: there is no parameter '$r' in block b (known: q)",
    ),
    "unused": (
        "{name: s, conv: {channels: 3, size: 1}}",
        "\n  b: {parameters: {q: 1}, layers: [{conv: {size: 1}}]}",
        ":5:20: error: blocks.b does not use its parameter q (write $q in a layer)",
    ),
    "named input": (
        "{name: s, conv: {channels: 3, size: 1}}",
        "\n  b: {parameters: {input1: 1}, layers: [{conv: {size: 1}}]}",
        ":5:20: error: blocks.b cannot have a parameter input1 ($input1 is what it reads)",
    ),
    "input that is not there": (
        "{name: s, block: b}",
        "\n  b: {layers: [{name: c, nonlinearity: relu, input: $input1}]}",
        ":5:53: error: there is no parameter '$input1' in block b (did you mean input?; in block b, used as s, line 7)",
    ),
    "recursion": (
        "{name: s, block: b}",
        "\n  b: {layers: [{name: c, block: a}]}\n  a: {layers: [{name: d, block: b}]}",
        ":6:33: error: block b uses itself (b -> a -> b; in block a, used as s.c, line 5)",
    ),
    "later layer": (
        "{name: s, block: b}",
        "\n  b: {layers: [{name: c, nonlinearity: relu, input: d}, {name: d, nonlinearity: relu}]}",
        ":5:53: error: layers.s.c reads d (an input is an earlier layer; in block b, used as s, line 7)",
    ),
    "name twice": (
        "{name: s, block: b}",
        "\n  b: {layers: [{name: c, nonlinearity: relu}, {name: c, nonlinearity: relu}]}",
        ":5:54: error: the name s.c is taken (names are unique; in block b, used as s, line 7)",
    ),
    "nameless": (
        "{name: s, block: b}",
        "\n  b: {layers: [{name: c, nonlinearity: relu}, {nonlinearity: relu}]}",
        ":5:47: error: blocks.b.layers.1 needs a name (only the one layer of a block may do without)",
    ),
    "output": (
        "{name: s, block: b}",
        "\n  b: {layers: [{name: c, nonlinearity: relu}], output: d}",
        ":5:56: error: blocks.b.output cannot be 'd' (known: c)",
    ),
    "key of an instance": (
        "{name: s, block: b, repeet: 3}",
        "\n  b: {layers: [{name: c, nonlinearity: relu}]}",
        ":7:25: error: unknown key 'repeet' in layers.s (did you mean repeat?)",
    ),
    "repeat": (
        "{name: s, block: b, repeat: many}",
        "\n  b: {layers: [{name: c, nonlinearity: relu}]}",
        ":7:33: error: layers.s.repeat must be an integer >= 0, not the string 'many'",
    ),
    "when": (
        "{name: s, block: b, when: 1}",
        "\n  b: {layers: [{name: c, nonlinearity: relu}]}",
        ":7:31: error: layers.s.when must be true or false, not 1",
    ),
    "each": (
        "{name: s, block: b, repeat: 3, each: {f: [relu, tanh]}}",
        "\n  b: {parameters: {f: }, layers: [{name: c, nonlinearity: $f}]}",
        ":7:46: error: layers.s.each.f must be a list of 3, not a list of 2 (one value a copy)",
    ),
    "input and inputs": (
        "{name: s, block: {unit: {channels: 3}}, input: data, inputs: [data]}",
        UNIT,
        ":11:52: error: layers.s has both input and inputs (one of them)",
    ),
    "no inputs": (
        "{name: s, add: {}, inputs: []}",
        "",
        ":6:32: error: layers.s.inputs must be a list of layers, not an empty list",
    ),
    "key of a layer": (
        "{name: s, blok: unit}",
        UNIT,
        ":11:15: error: unknown key 'blok' in layers.s (did you mean block?)",
    ),
    "no layers": (
        "{name: s, block: b}",
        "\n  b: {layers: []}",
        ":5:15: error: blocks.b.layers must be a list of layers, not an empty list",
    ),
    "not a layer": (
        "{name: s, block: b}",
        "\n  b: {layers: [relu]}",
        ":5:16: error: blocks.b.layers.0 must be a layer, not the string 'relu' (a mapping with a name)",
    ),
    "value of the instance": (
        "{name: s, block: {a: {size: x}}}",
        NESTED,
        ":13:33: error: layers.s.inner.c.conv.size must be an integer >= 1, not the string 'x' (in block b, used "
        "as s.inner, line 10)",
    ),
    "kind in a template": (
        "{name: s, block: b}",
        "\n  b: {layers: [{name: c, cnv: 3}]}",
        ":5:26: error: unknown key 'cnv' in layers.s.c (did you mean conv?; in block b, used as s, line 7)",
    ),
    "too many": (
        "{name: s, block: b, repeat: 1000000000}",
        "\n  b: {layers: [{name: c, when: false, nonlinearity: relu}]}",
        ":7:5: error: more than 20000 layers (repeated too often)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    layer, blocks, line = REFUSED[case]
    assert fault([layer], blocks) == "c.yaml" + line


def test_values_within_values_are_bounded():
    blocks = "".join(
        f"\n  b{k}: {{parameters: {{q: }}, layers: [{{name: c, block: {{b{k + 1}: {{q: [$q, $q]}}}}}}]}}"
        for k in range(19)
    )
    blocks += "\n  b19: {parameters: {q: }, layers: [{name: c, conv: {channels: 1, size: $q}}]}"
    assert "more than 200000 values" in fault(["{name: s, block: {b0: {q: 1}}}"], blocks)
    chain = (
        "".join(f"\n  b{k}: {{layers: [{{name: c, block: b{k + 1}}}]}}" for k in range(60))
        + "\n  b60: {layers: [{nonlinearity: relu}]}"
    )
    assert "blocks are nested more than 20 deep" in fault(["{name: s, block: b0}"], chain)


@pytest.mark.parametrize(("change", "line"), [
    ("layers.s.repeet=3", "--set layers.s.repeet:1:1: error: there is neither a layer nor a key of an instance at layers.s.repeet"
        " (dgraph show CONFIG --stage config lists all layers)"),
    ("layers.s.1.conv.size=3", "--set layers.s.1.conv.size:1:1: error: there is neither a layer nor a key of an instance at "
        "layers.s.1.conv.size (dgraph show CONFIG --stage config lists all layers)"),
])  # fmt: skip
def test_overrides_that_lead_nowhere(change, line):
    assert fault(["{name: s, block: {bottleneck: {channels: 3, out: 3}}}"], UNIT + BOTTLENECK, [change]) == line


def test_faults_of_the_graph_name_the_instance():
    with pytest.raises(ConfigError) as caught:
        compile_config(config(["{name: s, block: {a: {size: 17}}}", "{name: out, softmax: {classes: 10}}"], NESTED))
    assert caught.value.place.line == 7
    assert "s.inner.c" in caught.value.what
    assert caught.value.hint.endswith("in block b, used as s.inner, line 10")


def test_the_readme_shows_a_config_that_is_there():
    shown = README.read_text().split("<!-- configs/residual.yaml -->")[1].split("```")[1].removeprefix("yaml\n")
    assert shown == (README.parent / "configs/residual.yaml").read_text()
    assert [layer.name for layer in parse_config(shown).layers][:4] == [
        "stem",
        "stage1.0.one",
        "stage1.0.two",
        "stage1.0.sum",
    ]
