"""Commands of ``pixeldp``, one module for each. Nothing heavy is imported at the top of any."""
