"""Every unlearning method, one file each."""

from __future__ import annotations

from rkld.methods.method import Assisted, LogitArithmetic, Method, WeightArithmetic
from rkld.methods.registry import METHODS, get_method

__all__ = ["METHODS", "Assisted", "LogitArithmetic", "Method", "WeightArithmetic", "get_method"]
