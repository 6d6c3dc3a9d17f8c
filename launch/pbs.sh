#!/usr/bin/env bash
# qsub -v CONFIG=/path/to/config.yaml launch/pbs.sh
#PBS -N dgraph
#PBS -l select=2:ncpus=4:mpiprocs=4
#PBS -l walltime=01:00:00
cd "$PBS_O_WORKDIR" || exit 1
mpiexec dgraph train "$CONFIG"
