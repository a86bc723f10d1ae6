"""Classic click models: what a recommender without a language model makes of the same rows and numbers.

Two training sets. "all": every row of the graph and label parts. "same": the graph part and those label rows that the
language model learns from. Graph rows have no numbers (their own graph would know their labels): the networks meet them
with ids alone, the models of numbers not at all. Every model gets the same number of trials, judged on the selection
half of validation; no test label is read before `quality`.
"""

from eestudy.click_models.fields import bin_edges, binned, earlier_clicks, encode, histories
from eestudy.click_models.fitting import NUMBER_MODELS, TRAINING_SETS, fit_network, fit_numbers, prepare, training_rows
from eestudy.click_models.networks import NETWORKS, FactorizationMachine, make_network
from eestudy.click_models.tuning import ClickModelError, column_name, fit_all, microseconds, quality, trials_of

__all__ = [
    "ClickModelError", "FactorizationMachine", "NETWORKS", "NUMBER_MODELS", "TRAINING_SETS", "bin_edges", "binned",
    "column_name", "earlier_clicks", "encode", "fit_all", "fit_network", "fit_numbers", "histories", "make_network",
    "microseconds", "prepare", "quality", "training_rows", "trials_of",
]  # fmt: skip
