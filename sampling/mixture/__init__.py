"""The mathematics: the mixture q* of two distributions, its α, the draw of a token.

Plain torch over tensors, and in `kernel` the same in Triton. It imports the configuration alone.
"""
