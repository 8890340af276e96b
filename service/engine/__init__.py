"""The engine: the queue, the supervisors, the workers and their passes.

Nothing here knows about HTTP.
"""
