"""How the noise of each law is drawn in training, and what split noise shows of a picture.

A law of added noise has a module with ``draw_like``. Served models draw such a law by its quantile
function (:mod:`models.noise`).
"""
