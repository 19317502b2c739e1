"""The mixture q* of two distributions: its weight α, its diagnostics, the draw of a token.

Plain torch over tensors, and in `kernel` the same in Triton. It imports the configuration alone.
"""
