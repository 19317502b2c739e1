"""The GPU's way from two models' logits to one token a row."""
