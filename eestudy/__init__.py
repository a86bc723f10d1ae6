"""Support package of the early-exit study: the notebooks explain, this package computes."""

import sys

from eestudy.commands import hear_ctrl_c_from_the_start

if sys.argv[0] == "-m":  # `python -m eestudy.…`, while Python looks for the module
    hear_ctrl_c_from_the_start()

__version__ = "0.8.0"
