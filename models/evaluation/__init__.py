"""What a model is worth on labelled pictures: accuracy and certified accuracy."""
