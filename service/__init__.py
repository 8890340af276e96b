"""How PixelDP models are served."""
