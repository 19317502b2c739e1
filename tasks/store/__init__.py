"""Files that survive a crash, in a folder or in an object store.

Every other folder of `tasks` writes through it; it imports nothing but the errors.
"""
