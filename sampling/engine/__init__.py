"""The lockstep engine: both models advance together, one token per row and step.

`lockstep` drives two `Model`s; `vllm_engine` is the only file that uses vLLM's internals. The room imports
`sampling.mixture` and `sampling.models`; `workers` and `served` import it.
"""
