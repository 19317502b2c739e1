"""The mixture and its draw in one Triton launch, one program a row.

`launch` is the entry; `probe` tests it against plain torch on the device. It imports `sampling.mixture`.
"""
