"""What the launcher says, threads per rank, and how ranks are started."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgraph.error import RunError
from dgraph.runtime.communicator import OneRank
from dgraph.runtime.connect import choose_library, connect
from dgraph.runtime.environment import RANKS, THREAD_VARIABLES, Launched, launched, set_threads, thread_share
from dgraph.runtime.launch import LaunchError, _relay, find_mpiexec, launch, library_path, rank_environment

OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PMIX_RANK": "1",
}
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALNRANKS": "3"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "9", "SLURM_NODEID": "1"}
NODES = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        (OPENMPI, Launched("Open MPI's mpirun", 1, 4, 2)),
        (MPICH, Launched("mpiexec", 2, 3, 3)),
        (SRUN, Launched("srun", 5, 9, None)),
        ({**SRUN, **NODES}, Launched("srun", 5, 9, 4)),
        ({**SRUN, **NODES, "SLURM_NODEID": "2"}, Launched("srun", 5, 9, 1)),
        ({**SRUN, **MPICH}, Launched("mpiexec", 2, 3, 3)),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "6"}, Launched("srun", 5, 6, None)),
        ({k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"}, None),
        ({**SRUN, "SLURM_STEP_ID": "4294967290"}, None),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({RANKS: "4"}, Launched("dgraph", 0, 4, 4)),
    ],
)
def test_launched(environ, expected):
    assert launched(environ) == expected


def test_threads_are_the_share_of_the_node():
    cores = len(os.sched_getaffinity(0))
    assert thread_share({}) == cores
    assert thread_share({"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALNRANKS": "1"}) == cores
    assert thread_share({"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALNRANKS": str(2 * cores)}) == 1
    assert thread_share({**SRUN, **NODES, "SLURM_CPUS_ON_NODE": "4"}) == 1


def test_threads_of_the_user_stay_and_own_ones_do_not():
    environ = {"OMP_NUM_THREADS": "7"}
    set_threads(environ)
    assert [environ[name] for name in THREAD_VARIABLES] == ["7", "7", "7"]
    environ = {}
    set_threads(environ)
    assert int(environ["OPENBLAS_NUM_THREADS"]) == len(os.sched_getaffinity(0))
    environ.update({"PMI_RANK": "0", "PMI_SIZE": "999", "MPI_LOCALNRANKS": "999"})
    set_threads(environ)
    assert [environ[name] for name in THREAD_VARIABLES] == ["1", "1", "1"]


def test_the_library_of_the_launcher_is_loaded():
    environ = {**OPENMPI, "PMIX_PREFIX": "/opt/openmpi"}
    choose_library(environ)
    assert environ["MPI4PY_LIBMPI"].split(":") == [
        "/opt/openmpi/lib/libmpi.so.40",
        "/opt/openmpi/lib64/libmpi.so.40",
        "libmpi.so.40",
        "libmpi.so",
    ]
    told = {**MPICH, "MPI4PY_MPIABI": "mpich"}
    choose_library(told)
    assert "MPI4PY_LIBMPI" not in told
    assert library_path("unknown", Path("/usr")) is None


def test_environment_of_ranks_keeps_what_the_user_set():
    mine = {"MPI4PY_LIBMPI": "/mine/libmpi.so", "PRTE_MCA_rmaps_default_mapping_policy": "core"}
    environ = rank_environment("openmpi", Path("/x/bin/mpiexec"), 4, mine)
    assert environ.items() >= {**mine, RANKS: "4"}.items()
    assert rank_environment("mpich", Path("/x/bin/mpiexec"), 2, {})["MPI4PY_LIBMPI"].startswith("/x/lib/libmpi.so.12:")


def test_the_launcher_beside_the_interpreter_comes_first(tmp_path, monkeypatch):
    for folder, name in (("venv", "mpirun"), ("system", "mpiexec")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    assert find_mpiexec(str(tmp_path / "venv" / "python")) == tmp_path / "venv" / "mpirun"
    assert find_mpiexec(str(tmp_path / "python")) == tmp_path / "system" / "mpiexec"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="no MPI launcher") as raised:
        find_mpiexec(str(tmp_path / "python"))
    assert "pip install mpich" in str(raised.value)


def test_a_rank_does_not_start_ranks(monkeypatch):
    monkeypatch.setenv(RANKS, "2")
    with pytest.raises(LaunchError, match="a rank cannot start ranks"):
        launch(2, [])


def test_without_a_launcher_there_is_one_rank():
    assert isinstance(connect(None), OneRank)


@pytest.mark.parametrize("status", [9, 137])
def test_a_killed_rank_is_told(status, tmp_path, monkeypatch):
    monkeypatch.delenv(RANKS, raising=False)
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(f"#!/bin/sh\nexit {status}\n")
    mpiexec.chmod(0o755)
    with pytest.raises(RunError, match="a rank was ended by SIGKILL"):
        launch(2, (), mpiexec)


def test_boxes_about_an_abort_are_left_out():
    edge = b"-" * 74 + b"\n"
    keep = edge + b"There are not enough slots\n" + edge
    drop = edge + b"MPI_ABORT was invoked on rank 1\n" + edge + edge + b'rank 1 calling\n"abort". This may\n' + edge
    target = io.BytesIO()
    _relay(io.BytesIO(b"first\n" + keep + b"cause\n" + drop + b"\0"), target)
    assert target.getvalue() == b"first\n" + keep + b"cause\n"


@pytest.mark.parametrize("module", ["environment", "launch"])
def test_what_runs_before_numpy_imports_nothing_heavy(module):
    code = f"import sys, dgraph.runtime.{module}; print([m for m in ('numpy', 'mpi4py', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
