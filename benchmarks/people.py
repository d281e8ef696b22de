"""Forgetting two of twenty fictitious people with a tiny model: as published, with replay, and forward KL; 3 seeds.

    python -m benchmarks.people [--seeds 3] [--json FILE]

Each seed is another world, and another pair of people. The original learns all twenty, the retrained twin eighteen of
them in the same order. Every few epochs: forget probability, KS distance between the truth ratios of the unlearned and
the retrained model on the forget set (n = 40), retain probability.
"""

from __future__ import annotations
