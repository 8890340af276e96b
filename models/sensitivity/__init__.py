"""How far g's output can move when its input moves: proven upper bounds on Δ(p,q).

Δ(p,q) is the smallest number with ‖g(x) − g(x')‖_q ≤ Δ(p,q)·‖x − x'‖_p for all x, x'. Certificates
divide by it, so only upper bounds will do: power iteration, which approaches from below, appears
nowhere here.

``operators`` bounds linear maps and convolutions (numpy only), ``layers`` single layers of
``torch.nn``, ``modules`` a g made of them. ``projection`` keeps Δ of g at 1 while it is trained,
``error`` bounds what computing g in float64 adds.
"""
