"""A model before it is loaded: its folder, vocabulary, LoRA adapter, memory, vLLM options.

It reads files and plans; nothing is loaded here. The engines import it.
"""
