"""The engine: workers that make passes, the batcher that fills them, and who owns the workers.

Nothing here knows of HTTP.
"""
