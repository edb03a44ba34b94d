"""The command line: one module a command.

A command's module declares `HELP`, `add_arguments(parser)`, `run(arguments)`, which returns
the result as JSON-able data, and `show(result)`, which makes it readable. Whatever is slow to
import (Keras, TensorFlow, Rich) is imported inside `run` and `show`.
"""
