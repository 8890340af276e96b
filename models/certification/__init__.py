"""What a prediction is worth: tally → bounds → certificate.

numpy and scipy only, and nothing of the rest of the project: this package can be read beside the
papers as it stands.
"""
