"""Spectra to draw: nodes and weights by hand, without a model."""

import numpy as np

from gradvis.layout import as_dataset
from gradvis.restart import Pairs
from gradvis.spectrum import Spectrum
from tests.plots.trial import ABOUT

NODES = np.array([[-0.5, 0.0, 0.02, 40.0], [-0.5, 0.0, 0.03, 40.0], [-0.5, 0.0, 0.04, np.nan]])
WEIGHTS = np.array([[0.1, 0.6, 0.295, 0.005], [0.1, 0.55, 0.335, 0.015], [0.2, 0.5, 0.3, 0.0]])
VALUES, CONVERGED = np.array([40.0, 0.03, -0.5]), np.array([True, False, True])


def spectrum(nodes=NODES, weights=WEIGHTS, values=VALUES, converged=CONVERGED, unused=0, **about):
    """A spectrum of a thousand parameters; a row without nodes is a probe that is not there."""
    probes, steps = nodes.shape
    about = {
        **ABOUT, "kind": "spectrum", "operator": "hessian", "probes": probes, "steps": steps, "seed": 3, "top": 2,
        "which": "both", "reorthogonalise": "full", "storage": "float32", "tol": None, "parameters": 1000,
        "exact": False, "metrics": ["node", "weight", "residual"], "center": ["loss", "gradient_norm", "unused"],
        **about,
    }  # fmt: skip
    rows = np.stack([nodes, weights, np.where(np.isfinite(nodes), 1e-5, np.nan)], axis=-1)
    axes = {"probe": np.arange(1.0, probes + 1), "step": np.arange(1.0, steps + 1)}
    pairs = Pairs(values, np.zeros((len(values), 1)), np.array([1e-6, 0.2, 1e-7])[: len(values)], converged)
    return Spectrum(as_dataset(about, axes, rows, np.array([0.3, 0.1, unused])), about, lambda: pairs)


def layer(name, scale=1.0, **about):
    """The spectrum of a block, with its eigenvalues so many times as large."""
    objective = {**ABOUT["objective"], "parameters": name}
    return spectrum(scale * NODES, values=scale * VALUES, objective=objective, **about)
