"""Durable storage: files that survive a crash, in a local folder or an object store.

Every other room of `tasks` writes through it. It imports only the errors.
"""
