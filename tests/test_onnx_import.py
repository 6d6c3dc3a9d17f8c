"""ONNX models as configs: what is read, what is refused in one line, and that nothing hostile gets further."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from dgraph.cli.main import main
from dgraph.config import load_config
from dgraph.error import DgraphError
from dgraph.onnx.adopt import adopt
from dgraph.onnx.export import export
from tests.runs import CONFIGS

ROOT = Path(__file__).parent.parent
RANDOM = np.random.default_rng(0)


def values(*dim):
    return RANDOM.normal(size=dim).astype(np.float32)


def model(nodes, constants=(), x=(2, 3, 6, 6), opset=21, kind=TensorProto.FLOAT):
    """A model of x, its nodes and constants, whose last node writes y, of whatever dim."""
    flat = any(node.op_type in ("Flatten", "Reshape", "ReduceMean") for node in nodes)
    y = [f"d{d}" for d in range(2 if flat else len(x))]
    ends = [make_tensor_value_info("x", kind, x)], [make_tensor_value_info("y", kind, y)]
    initializers = [
        one if isinstance(one, TensorProto) else from_array(one, name) for name, one in dict(constants).items()
    ]
    graph = make_graph(nodes, "net", *ends, initializers)
    return make_model(graph, opset_imports=[make_opsetid("", opset)], ir_version=8)


def ran(proto, x):
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]


def taken(proto, folder):
    """The model that dgraph makes of a model, and its config."""
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    adopt(folder / "m.onnx", folder / "in", 2)
    config = load_config(folder / "in" / "config.yaml", (), 1)
    export(config, folder / "in", folder / "again.onnx", any_batch=False)
    return onnx.load(folder / "again.onnx"), config


def same(nodes, folder, constants=(), x=(2, 3, 6, 6), **more):
    """Takes a model in and out, and compares what both compute."""
    before = model(nodes, constants, x, **more)
    after, _ = taken(before, folder)
    after.graph.input[0].name, old = "x", after.graph.input[0].name
    for node in after.graph.node:
        node.input[:] = ["x" if name == old else name for name in node.input]
    given = values(*(2 if n is None else n for n in x))
    wanted, found = ran(before, given), ran(after, given)
    assert np.abs(found.reshape(wanted.shape) - wanted).max() <= 1e-5


def conv(**attributes):
    return make_node("Conv", ["x", "w"], ["y"], **attributes)


FLAT = make_node("Flatten", ["x"], ["h"])
FLOOR = {"nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
SAME = {
    "automatic padding": ([conv(auto_pad="SAME_LOWER", strides=[2, 2])], {"w": values(4, 3, 4, 4)}),
    "a channel's factor": ([make_node("Mul", ["x", "w"], ["y"])], {"w": values(3, 1, 1)}),
    "a factor in front": ([make_node("Mul", ["w", "x"], ["y"])], {"w": np.float32(0.3)}),
    "a constant taken away": ([make_node("Sub", ["x", "w"], ["y"])], {"w": values(3, 1, 6)}),
    "a division": ([make_node("Div", ["x", "w"], ["y"])], {"w": np.float32([[[2]], [[3]], [[-5]]])}),
    "a shape that is computed": (
        [
            make_node("Shape", ["x"], ["d"]), make_node("Gather", ["d", "0"], ["n"]), make_node("Reshape", ["n", "1"], ["m"]),
            make_node("Concat", ["m", "-1"], ["s"], axis=0), make_node("Reshape", ["x", "s"], ["y"]),
        ],
        {"0": np.array(0), "1": np.array([1]), "-1": np.array([-1])},
    ),
    "a product with a matrix": ([FLAT, make_node("MatMul", ["h", "w"], ["y"])], {"w": values(108, 5)}),
    "a product of four dimensions": ([make_node("MatMul", ["x", "w"], ["y"])], {"w": values(6, 5)}),
    "a product with factors": (
        [FLAT, make_node("Gemm", ["h", "w", "b"], ["y"], alpha=0.5, beta=2.0)],
        {"w": values(108, 5), "b": values(1)},
    ),
    "constants as nodes": (
        [make_node("Constant", [], ["s"], value_ints=[0, -1]), make_node("Reshape", ["x", "s"], ["y"])], {},
    ),
    "a mean without its dimensions": ([make_node("ReduceMean", ["x", "a"], ["y"], keepdims=0)], {"a": np.array([2, 3])}),
    "weights used twice": (
        [make_node("Conv", ["x", "w"], ["h"]), make_node("Conv", ["h", "w"], ["i"]), make_node("Add", ["h", "i"], ["y"])],
        {"w": values(3, 3, 1, 1)},
    ),
    "sizes that are wanted": (
        [make_node("Resize", ["x", "", "", "s"], ["y"], mode="nearest", **FLOOR)],
        {"s": np.array([2, 3, 12, 18])},
    ),
    "a group's factors": (
        [make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=3)], {"s": values(3), "b": values(3)},
    ),
    "a shape without zeros": ([make_node("Reshape", ["x", "s"], ["y"], allowzero=1)], {"s": np.array([2, -1])}),
    "factors of the last dimension": ([make_node("Mul", ["x", "w"], ["y"])], {"w": values(6)}),
    "factors of some dimensions": ([make_node("Div", ["x", "w"], ["y"])], {"w": values(3, 1, 6)}),
    "a difference": ([make_node("Relu", ["x"], ["h"]), make_node("Sub", ["x", "h"], ["y"])], {}),
    "a difference from a constant": ([make_node("Sub", ["w", "x"], ["y"])], {"w": values(3, 1, 1)}),
    "a mean of several": (
        [make_node("Relu", ["x"], ["h"]), make_node("Neg", ["h"], ["i"]), make_node("Mean", ["x", "h", "i"], ["y"])], {},
    ),
    "parts": (
        [
            make_node("Split", ["x"], ["a", "u", "b"], axis=3, num_outputs=3), make_node("Tanh", ["a"], ["c"]),
            make_node("Concat", ["b", "c", "a"], ["y"], axis=3),
        ],
        {},
    ),
    "parts of given sizes": (
        [make_node("Split", ["x", "s"], ["a", "b"], axis=-3), make_node("Add", ["a", "b"], ["y"])], {"s": np.array([1, 2])},
    ),
    "one place of the last dimension": (
        [make_node("Gather", ["x", "i"], ["h"], axis=-1), make_node("Unsqueeze", ["h", "a"], ["y"])],
        {"i": np.array(-2), "a": np.array([1])},
    ),
    "every other row": ([make_node("Gather", ["x", "i"], ["y"], axis=2)], {"i": np.array([1, 3, -1])}),
    "blocks of places": ([make_node("SpaceToDepth", ["x"], ["h"], blocksize=3), make_node("Relu", ["h"], ["y"])], {}),
    "padding below 0": ([make_node("Pad", ["x", "p"], ["y"])], {"p": np.array([0, 0, 2, -1, 0, 0, -3, 1])}),
    "padding below 0 alone": ([make_node("Pad", ["x", "p"], ["y"])], {"p": np.array([0, -1, 0, -1, 0, 0, -2, 0])}),
    "coordinates of PyTorch": (
        [make_node("Resize", ["x", "", "s"], ["y"], mode="linear", coordinate_transformation_mode="pytorch_half_pixel")],
        {"s": np.float32([1, 1, 2, 3])},
    ),
    "a factor that keeps the aspect": (
        [make_node("Resize", ["x", "", "", "s"], ["y"], axes=[2, 3], keep_aspect_ratio_policy="not_larger", **FLOOR)],
        {"s": np.array([12, 20])},
    ),
    "a mean of dilated windows": (
        [make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 0, 0, 1])], {},
    ),
    "indices in another order": ([make_node("MaxPool", ["x"], ["y", "z"], kernel_shape=[2, 3], storage_order=1)], {}),
    "statistics of the batch": (
        [make_node("BatchNormalization", ["x", *"abcd"], ["y", "m", "v"], training_mode=1)], {name: values(3) for name in "abcd"},
    ),
    "a cut at 0": ([make_node("Clip", ["x", "0"], ["y"])], {"0": np.float32(0)}),
    "nonlinearities with numbers": (
        [make_node("Celu", ["x"], ["h"], alpha=0.5), make_node("Selu", ["h"], ["i"]), make_node("Mish", ["i"], ["y"])], {},
    ),
    "a constant of the input's type": (
        [make_node("CastLike", ["c", "x"], ["h"]), make_node("Mul", ["x", "h"], ["y"])], {"c": np.array(3)},
    ),
    "a product with a vector": (
        [make_node("MatMul", ["x", "w"], ["h"]), make_node("Unsqueeze", ["h", "a"], ["y"])],
        {"w": values(6), "a": np.array([3])},
    ),
    "a softmax in the middle": ([make_node("Softmax", ["x"], ["h"]), make_node("Relu", ["h"], ["y"])], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_a_model_computes_the_same(name, tmp_path):
    same(SAME[name][0], tmp_path, SAME[name][1])


def test_names_that_a_config_cannot_have(tmp_path):
    nodes = [
        make_node("Relu", ["x"], ["/a b:0"], name="/layer 1/Relu"),
        make_node("Relu", ["/a b:0"], ["9"]),
        make_node("Tanh", ["9"], ["y"]),
    ]
    same(nodes, tmp_path)
    names = [node.name for node in load_config(tmp_path / "in" / "config.yaml").nodes]
    assert names[:3] == ["layer_1_Relu", "_9", "y"]


def test_an_open_batch(tmp_path):
    same([conv()], tmp_path, {"w": values(4, 3, 2, 2)}, x=(None, 3, 6, 6))
    assert load_config(tmp_path / "in" / "config.yaml").data.batch == 2


@pytest.mark.parametrize(
    ("last", "loss"), [("Softmax", "softmax"), ("Sigmoid", "binary_cross_entropy"), ("Relu", "squared_error")]
)
def test_the_loss_follows_from_the_last_node(last, loss, tmp_path):
    more = {"axis": 1} if last == "Softmax" else {}
    nodes = [make_node("Conv", ["x", "w"], ["h"]), make_node(last, ["h"], ["y"], **more)]
    _, config = taken(model(nodes, {"w": values(4, 3, 6, 6)}), tmp_path)
    assert loss in {node.op for node in config.nodes}
    for command in (
        ["evaluate", "--checkpoint"],
        ["predict", "-o", str(tmp_path / "p.npz"), "--checkpoint"],
        ["train", "--resume"],
    ):
        words = [
            command[0],
            str(tmp_path / "in" / "config.yaml"),
            *command[1:],
            str(tmp_path / "in"),
            "--set",
            "train.steps=1",
        ]
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 0


# --- what is refused

REFUSED = {
    "m.onnx: node 0 (Hardmax): dgraph has no op Hardmax": ([make_node("Hardmax", ["x"], ["y"])], {}),
    "m.onnx: node top (Conv): attribute kernel_shape is [2, 2] (the filters have dim [4, 3, 3, 3])": (
        [conv(kernel_shape=[2, 2], name="top")], {"w": values(4, 3, 3, 3)}),
    "m.onnx: node 0 (Conv): filters w of dim [4, 2, 3, 3] does not fit (wanted is [4, 3, 3, 3])": (
        [conv()], {"w": values(4, 2, 3, 3)}),
    "m.onnx: node 0 (Conv): input x is not a constant (it must be an initializer)": ([make_node("Conv", ["x", "x"], ["y"])], {}),
    "m.onnx: node 0 (MaxPool): output z is not supported (only the first is)": (
        [make_node("MaxPool", ["x"], ["y", "z"], kernel_shape=[2, 2]), make_node("Shape", ["z"], ["s"])], {}),
    "m.onnx: node 0 (Clip): input min 0.0 and max 6.0 (a min of 0, or none, and no max are supported)": (
        [make_node("Clip", ["x", "0", "6"], ["y"])], {"0": np.float32(0), "6": np.float32(6)}),
    "m.onnx: node 0 (Gather): indices i of dim [2] (one of 6 places, or several forward in even steps, are supported)": (
        [make_node("Gather", ["x", "i"], ["y"], axis=2)], {"i": np.array([3, 1])}),
    "m.onnx: node 0 (Split): parts of [1, 1] (2 parts, each at least 1, of 3 are needed)": (
        [make_node("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": np.array([1, 1])}),
    "m.onnx: node 0 (DepthToSpace): attribute blocksize is 2 (the input has dim [2, 3, 6, 6])": (
        [make_node("DepthToSpace", ["x"], ["y"], blocksize=2)], {}),
    "m.onnx: node 0 (Cast): attribute to is FLOAT16 (the network is of type float32)": (
        [make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)], {}),
    "m.onnx: node 0 (Slice): step -1 (only steps forward are supported)": (
        [make_node("Slice", ["x", "s", "e", "a", "t"], ["y"])],
        {"s": np.array([3]), "e": np.array([0]), "a": np.array([2]), "t": np.array([-1])}),
    "m.onnx: node 0 (Concat): input w is a constant (it must be computed)": (
        [make_node("Concat", ["x", "w"], ["y"], axis=0)], {"w": values(1, 3, 6, 6)}),
    "m.onnx: node 0 (Resize): scales [1.0, 1.0, 1.5, 2.0] (whole numbers in the spatial dimensions are supported)": (
        [make_node("Resize", ["x", "", "s"], ["y"])], {"s": np.float32([1, 1, 1.5, 2])}),
    "m.onnx: node 0 (BatchNormalization): output m is not supported (only the first is)": (
        [make_node("BatchNormalization", ["x", *"abcd"], ["y", "m", "v"], training_mode=1), make_node("Relu", ["m"], ["z"])],
        {name: values(3) for name in "abcd"}),
    "m.onnx: tensor w of type FLOAT16 (supported are float32, float64, int64, int32, bool)": (
        [conv()], {"w": values(4, 3, 3, 3).astype(np.float16)}),
    "m.onnx: node 0 (Reshape): it cannot be computed (cannot reshape array of size 4 into shape (3,))": (
        [make_node("Reshape", ["w", "s"], ["h"]), make_node("Add", ["x", "h"], ["y"])], {"w": values(4), "s": np.array([3])}),
    "m.onnx: node 0 (Div): input w holds a 0": ([make_node("Div", ["x", "w"], ["y"])], {"w": np.float32([0])}),
    "m.onnx: output y is a constant (it depends on no input)": ([make_node("Constant", [], ["y"], value_float=1.0)], {}),
}  # fmt: skip


def refused(words, status, capfd, folder):
    """What a command says that fails, in one line, and leaves nothing behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    said = capfd.readouterr().err
    assert (left.value.code, said.count("\n")) == (status, 1)
    assert sorted(folder.rglob("*")) == before
    return said.replace(f"{folder}/", "").removeprefix("error: ").removesuffix("\n")


@pytest.mark.parametrize("said", REFUSED)
def test_what_dgraph_does_not_have_is_one_line(said, tmp_path, capfd):
    nodes, constants = REFUSED[said]
    (tmp_path / "m.onnx").write_bytes(model(nodes, constants).SerializeToString())
    assert refused(["import", tmp_path / "m.onnx", "-o", tmp_path / "out"], 2, capfd, tmp_path) == said


RELU = [make_node("Relu", ["x"], ["y"])]
MODELS = {
    "m.onnx: operator set 12 (from 13 to ": (model(RELU, opset=12), 2),
    "m.onnx: input x is of type FLOAT16 (supported are float32, float64, int64, int32, bool)": (
        model(RELU, kind=TensorProto.FLOAT16),
        2,
    ),
    "m.onnx: input x is of type int64 (supported are float32 and float64)": (
        model(RELU, opset=14, kind=TensorProto.INT64),
        2,
    ),
    "m.onnx: input x has dim [2, ?, 6] (only the first extent may be open)": (model(RELU, x=(2, None, 6)), 2),
    "m.onnx: input x has dim [2, 0] (every extent is at least 1": (model(RELU, x=(2, 0)), 2),
    "m.onnx: input x has dim [1, 3000000, 3000000] (every extent": (model(RELU, x=(1, 3000000, 3000000)), 2),
    "m.onnx: input x has 1 dimensions (data is [N, C]": (model(RELU, x=(2,)), 2),
    "m.onnx: damaged, or no ONNX model (": (onnx.ModelProto(), 4),
}


@pytest.mark.parametrize("said", MODELS)
def test_models_of_another_kind(said, tmp_path, capfd):
    proto, status = MODELS[said]
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert refused(["import", tmp_path / "m.onnx", "-o", tmp_path / "out"], status, capfd, tmp_path).startswith(said)


def external(location, length=72 * 4, offset=0):
    """A model whose filters stand in another file."""
    tensor = TensorProto(name="w", dims=[4, 3, 2, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return model([conv()], {"w": tensor})


LONG = "a" * 5000
OUTSIDE = ["../w.bin", "/etc/passwd", "", "a/../../w.bin", "link.bin", "linked/w.bin", "a\\..\\w.bin"]


@pytest.mark.parametrize("location", OUTSIDE)
def test_values_outside_the_folder_are_refused(location, tmp_path, capfd):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(values(72).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "m.onnx").write_bytes(external(location).SerializeToString())
    said = refused(["import", folder / "m.onnx", "-o", tmp_path / "out"], 4, capfd, tmp_path)
    assert said.startswith("model/m.onnx: the values of w are outside the model's folder (")


@pytest.mark.parametrize(("changed", "said"), [
    ({"offset": 4}, "w.bin: w lies beyond its end"), ({"offset": -4}, "w.bin: w lies beyond its end"),
    ({"length": 8}, "m.onnx: w has another length than its dim [4, 3, 2, 3]"),
    ({"offset": "?"}, "m.onnx: damaged, or no ONNX model"),
    ({"location": LONG}, f"{LONG}: File name too long"),
    ({"location": "none.bin"}, "none.bin: No such file"), ({"location": "sub"}, "sub: w lies beyond its end"),
])  # fmt: skip
def test_values_in_a_damaged_file_are_refused(changed, said, tmp_path, capfd):
    (tmp_path / "w.bin").write_bytes(values(72).tobytes())
    (tmp_path / "sub").mkdir()
    (tmp_path / "m.onnx").write_bytes(external(**{"location": "w.bin", **changed}).SerializeToString())
    assert refused(["import", tmp_path / "m.onnx", "-o", tmp_path / "out"], 4, capfd, tmp_path).startswith(said)


def test_values_beside_the_model(tmp_path):
    (tmp_path / "w.bin").write_bytes(values(72).tobytes())
    taken(external("w.bin"), tmp_path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    export(load_config(CONFIGS / "mixed.yaml", ("data.batch=2",)), None, folder / "m.onnx", any_batch=False)
    return folder, (folder / "m.onnx").read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_model_is_one_line_or_sound(data, sound):
    folder, content = sound
    broken = bytearray(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    for place in data.draw(st.lists(st.integers(0, 4000), max_size=4)):
        if place < len(broken):
            broken[place] = data.draw(st.integers(0, 255))
    (folder / "broken.onnx").write_bytes(broken)
    out = folder / f"out{len(list(folder.iterdir()))}"
    said = ""
    try:
        adopt(folder / "broken.onnx", out, 1)
    except DgraphError as error:
        said = str(error)
    assert "\n" not in said
    assert out.exists() == (not said)


COMMANDS = {
    "import {}/none.onnx": (4, "none.onnx: No such file or directory"),
    "import {}": (4, "{}: Is a directory"),
    "import {}/sound.onnx -o {}/taken": (2, "taken/config.yaml is there already (name another place with -o)"),
    "export {}/taken/config.yaml {}/model.pb": (2, "model.pb: the name must end in .onnx or .safetensors (it says"),
    "export {}/taken/config.yaml {}/none/m.onnx": (4, "none/m.onnx.tmp: No such file or directory"),
    "export {}/taken/config.yaml {}/m.onnx --checkpoint {}/none": (4, "none: no such checkpoint"),
    "export {}/taken/config.yaml {}/m.onnx --checkpoint {}/taken --set nodes.\"batch.conv\".attributes.channels=16": (
        4, "taken/checkpoints/step-000000: batch.W has dim [8, 2, 3, 3], not [16, 2, 3, 3]"),
}  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS)
def test_bad_commands(words, tmp_path, sound, capfd):
    (tmp_path / "sound.onnx").write_bytes(sound[1])
    adopt(tmp_path / "sound.onnx", tmp_path / "taken", 1)
    status, said = COMMANDS[words]
    found = refused(words.replace("{}", str(tmp_path)).split(), status, capfd, tmp_path).replace(str(tmp_path), "{}")
    assert found.startswith(said)


def test_without_the_libraries_one_line_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['onnx'] = None\n")
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "dgraph", "import", "m.onnx"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: this needs the package onnx (pip install dgraph[onnx])\n")


# --- somebody else's tests


def test_the_node_tests_of_onnx():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "onnx_nodes.py"), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ,
    )
    counts = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, counts["failed"]) == (0, 0), done.stdout
    assert counts["passed"] >= 270
