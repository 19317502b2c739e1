"""Reading of texts: letters by script, numbers and formulas as people write them, comparison of two answers.

`validations.measure` alone imports it. It imports nothing of the project.
"""
