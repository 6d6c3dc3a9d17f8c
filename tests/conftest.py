"""Examples that hypothesis draws are the same in every run, so that a run can be repeated; `--hypothesis-profile=random` draws new
ones."""

from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("random", deadline=None)
settings.load_profile("same")
