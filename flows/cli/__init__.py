"""The command line `dual-sampling`: its arguments, the configuration file, one file a command.

It may import everything and nothing imports it. A command's module is imported when it runs, so that `--help` is quick.
"""
