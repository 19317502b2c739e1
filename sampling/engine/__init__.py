"""The lockstep engine: both models stepped together, one token a row.

`lockstep` drives two `Model`s; `vllm_engine` is the one file on vLLM's insides. It imports `sampling.mixture` and
`sampling.models`; `workers` and `served` import it.
"""
