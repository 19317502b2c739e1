"""The demo: two tiny models that solve arithmetic word problems."""
