"""The command line `dual-sampling`: its parser, the configuration file's reader, one module per command.

It may import every other room; no room imports it. A command's module is imported when the command runs, so that
`--help` takes milliseconds.
"""
