"""The HTTP backend: mixes the next-token distributions of two models that vLLM servers hold.

`connect` is the sampler's entry point, `serving` starts a pair of servers on this machine. It imports
`sampling.engine` for requests and admission.
"""
