"""Experiments come in a short form, for every run of the tests, and a long one."""

import os

# ``make soundness`` sets this.
LONG = os.environ.get("PIXELDP_SOUNDNESS") == "long"
# Draws for each picture's true expected scores in the long form.
TRUTH = int(os.environ.get("PIXELDP_SOUNDNESS_DRAWS", "1000000"))
