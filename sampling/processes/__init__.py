"""Child processes: how they are started, how they end with their parent, how their errors come back.

Every process that this project starts goes through here; it imports the errors alone.
"""
