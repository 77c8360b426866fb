"""`triportrait evaluate protocol|run|score|table` compares methods by protocols that are files.

`figure` and `votes` are the paper's; `evaluate WEIGHTS` measures trained weights where the truth is known.
"""

from __future__ import annotations

from triportrait.train.jobs.evaluate import Evaluate
from triportrait.train.jobs.evaluate_figure import Figure
from triportrait.train.jobs.evaluate_protocol import Protocol
from triportrait.train.jobs.evaluate_run import Run
from triportrait.train.jobs.evaluate_score import Score
from triportrait.train.jobs.evaluate_table import Table
from triportrait.train.jobs.evaluate_votes import Votes


class Weights(Evaluate):
    """Measure trained weights on heads that they know and on heads that they never saw; the truth is known.

    `triportrait evaluate WEIGHTS` is the same.
    """

    takes_calls_without_kind = True


Evaluation = Protocol | Run | Score | Table | Figure | Votes | Weights
