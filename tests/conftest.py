"""Examples that hypothesis draws are the same in every run, so that a run can be repeated; `--hypothesis-profile=random` draws new
ones. Tests run side by side, one a core, so that none has threads of its own."""

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("same")
