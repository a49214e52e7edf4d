"""The framework: contracts at the bottom, harness and runner on them, the command line on top.
Imports no torch by itself.
"""
