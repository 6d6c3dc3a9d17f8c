#!/usr/bin/env bash
# bsub < launch/lsf.sh, with CONFIG in the environment
#BSUB -J dgraph
#BSUB -n 8
#BSUB -R "span[ptile=4]"
#BSUB -W 1:00
mpiexec dgraph train "$CONFIG"
