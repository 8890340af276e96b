"""PixelDP models: what they are, how they are trained, and what their predictions are worth."""
