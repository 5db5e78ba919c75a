"""Nanoseconds an operation of bridgecore.Cache, against dict, lru_cache, cachebox, moka-py, theine and cachetools.

The loops below are the same for all contenders. Nothing is subtracted: the first row is what an empty loop costs, and
one that calls a built-in function.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cachebox_clock
from keys import hashed, joined, pair, zipf
from rounds import Row, own, timed
from subjects import Subject, subjects

from bridgecore import Cache
