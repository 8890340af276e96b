"""Hypothesis without a deadline: how long an example takes does not matter here."""

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
