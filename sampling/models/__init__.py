"""The metadata of models before they are loaded: folder, vocabulary, LoRA adapter, memory plan, vLLM options.

It reads files and computes; no weights are loaded here. The engines import it.
"""
