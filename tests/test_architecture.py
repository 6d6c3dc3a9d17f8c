"""The direction of the house: a room imports only from rooms below it, and only its owner touches a heavy library."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "dgraph"
LEVELS = {
    "error": 0, "rect": 0, "rate": 0, "average": 0, "spare": 0, "block": 1, "durable": 1, "trace": 2, "random": 2, "run": 2,
    "checkpoint": 2, "picture": 2, "tensorboard": 2,
    "graph": 1, "config": 2, "ops": 2, "kernels": 3, "models": 3, "autodiff": 3,
    "layout": 4, "optimizer": 4, "plan": 5, "schedule": 6, "runtime": 7, "data": 7,
    "program": 8, "metric": 8, "fit": 8, "summary": 9, "train": 9, "onnx": 9, "predict": 10, "verify": 10, "tune": 10,
    "profile": 10, "network": 11,
    "cli": 12, "__main__": 13, "__init__": 12,
}  # fmt: skip
OWNERS = {
    "mpi4py": {"runtime/mpi.py", "runtime/doctor.py"}, "rich": {"cli/face.py"},
    "h5py": {"data/reader/hdf5.py", "data/pack.py"}, "PIL": {"data/reader/image.py"}, "sklearn": {"data/reader/scikit.py"},
    "matplotlib": {"picture.py"}, "tensorboardX": {"tensorboard.py"},
}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))
OWNERS["torch"] = {str(path.relative_to(ROOT)) for path in FILES if path.parent.match("kernels/torch")}
ONNX = {str(path.relative_to(ROOT)) for path in FILES if "onnx" in path.parts}
OWNERS |= dict.fromkeys(("onnx", "safetensors", "google"), ONNX)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "dgraph")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_downwards(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    for name in imports(path):
        if name.startswith("dgraph."):
            assert room(name) == own or LEVELS[room(name)] < LEVELS[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_have_one_owner(path):
    name = str(path.relative_to(ROOT))
    for imported in imports(path):
        library = imported.split(".")[0]
        assert library not in OWNERS or name in OWNERS[library], f"{name} imports {imported}"
        assert library not in ("pickle", "marshal", "shelve", "dill"), f"{name} imports {imported}"
