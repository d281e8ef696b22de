"""When to stop forgetting, without the retrained model that the paper needs for it.

The paper takes the epoch with the best forget quality (arXiv 2406.01983, section 4). That is an oracle: a real erasure
has no retrained model. A rule here (:mod:`rkld.stopping.rules`, one file each) sees the student's losses on some of the
forget records, check by check (:class:`rkld.stopping.evidence.Evidence`), and an aim that was read before the
distillation began. The run ends at the first check that is not above the aim, and the check nearest to it is kept.

Rules are pure functions of the recorded evidence, so all of them can be simulated on one run. What steers is no
evidence afterwards: :mod:`rkld.stopping.steering` sets records apart, and the audit leaves them out.
"""
