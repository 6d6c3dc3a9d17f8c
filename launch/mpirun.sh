#!/usr/bin/env bash
# launch/mpirun.sh RANKS CONFIG [options of dgraph train], with the MPI on PATH
ranks=$1
shift
exec mpirun -n "$ranks" dgraph train "$@"
