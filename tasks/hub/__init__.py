"""The Hugging Face Hub, where finished datasets go."""
