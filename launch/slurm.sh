#!/usr/bin/env bash
# sbatch launch/slurm.sh CONFIG [options of dgraph train]
#SBATCH --job-name=dgraph
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --time=01:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before its time is up the run saves and leaves with status 75; the same job is queued once more and goes on.
# -K1 ends the job when a rank dies; without it the others would wait for ever.
run=runs/$SLURM_JOB_NAME-$SLURM_JOB_ID
resume=()
[ -d "$run/checkpoints" ] && resume=(--resume "$run")
srun -K1 dgraph train "$@" --run "$run" "${resume[@]}"
status=$?
[ $status -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $status
