"""The certificate of a prediction: tally → bounds → certificate.

This package needs only numpy and scipy, and nothing else of the project, so that it can be read
beside the papers by itself.
"""
