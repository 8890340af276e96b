"""Labelled pictures to train and evaluate on."""
