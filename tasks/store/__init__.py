"""An object store in the place of a folder."""
