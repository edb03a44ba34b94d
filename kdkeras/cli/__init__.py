"""The command line: one module per command.

The module of a command defines `HELP`, `add_arguments(parser)`, `run(arguments)`, which returns
the result as JSON-serializable data, and `show(result)`, which yields strings and tables to print.
Slow imports (Keras, TensorFlow, Rich) are inside `run` and `show`, so that `--help` is fast.
"""
