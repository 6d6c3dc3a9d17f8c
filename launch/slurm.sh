#!/usr/bin/env bash
# sbatch launch/slurm.sh CONFIG [options of dgraph train]
#SBATCH --job-name=dgraph
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --time=01:00:00
# -K1 ends the job when a rank dies; without it the others would wait for ever.
srun -K1 dgraph train "$@"
