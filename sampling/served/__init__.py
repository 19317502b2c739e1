"""The HTTP backend: two models that vLLM serves elsewhere, coupled token by token.

`connect` is its entry for the sampler, `serving` starts a pair of servers on this machine. It imports
`sampling.engine` for requests and admission.
"""
