"""What is said of spectra: captions and the paragraph for a paper."""

import numpy as np
import pytest

from gradvis.methods import spectrum as methods
from gradvis.plots.caption_spectrum import caption, captions
from tests.plots.trial_spectrum import NODES, VALUES, WEIGHTS, layer, spectrum

TRACE = 1000 * (WEIGHTS * np.nan_to_num(NODES)).sum(axis=1)
ERROR = TRACE.std(ddof=1) / np.sqrt(3)


def test_the_caption_has_the_estimates_and_how_they_came():
    text = caption(spectrum(unused=12), "density")
    assert (
        f"Spectral density of the Hessian of model.pt: trace {TRACE.mean():.0f} ± {ERROR:.0f}, Frobenius norm" in text
    )
    assert "3 probes, 4 steps each, seed 3; 1000 parameters, 12 of them without curvature; cross entropy" in text
    assert "probes computed" not in text


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"operator": "ggn"}, "of the generalised Gauss-Newton matrix of model.pt:"),
        ({"operator": "fisher"}, "of the empirical Fisher matrix of model.pt:"),
        ({"reorthogonalise": "none"}, "seed 3, no reorthogonalisation;"),
        ({"objective": {"loss": "mse", "parameters": "fc.*"}}, "of the Hessian of model.pt, fc.*:"),
    ],
)
def test_what_differs_is_in_the_caption(about, said):
    assert said in caption(spectrum(**about), "cumulative")
    assert caption(spectrum(**about), "cumulative").startswith("Cumulative spectrum of")


def test_several_say_once_what_they_share():
    text = captions([layer("a.*"), layer("b.*", 2.0)], ["a.*", "b.*"], "density")
    assert text.startswith("Spectral density of the Hessian of model.pt. a.*: trace ")
    assert f"b.*: trace {2 * TRACE.mean():.0f} ± {2 * ERROR:.0f}, Frobenius" in text
    assert text.count("cross entropy") == text.count("3 probes") == 1
    many = captions([layer(f"{i}.*") for i in range(7)], list("abcdefg"), "ridge")
    assert "trace" not in many
    mixed = captions([layer("a.*"), layer("b.*", operator="ggn", seed=9)], ["a.*", "b.*"], "density")
    assert mixed.startswith("Spectral density of model.pt. ")
    assert "b.*: 3 probes, 4 steps each, seed 9" in mixed


def test_the_paragraph_for_a_paper_says_what_was_done_and_after_whom():
    text = methods(spectrum())
    for fact in (
        "The spectrum of the Hessian of the cross entropy of the model, the mean over all 1797 samples of the data "
        "(1000 eigenvalues), was estimated by stochastic Lanczos quadrature (Golub and Meurant",
        "Ghorbani et al.",
        "from 3 random sign vectors (seed 3), 4 steps each.",
        "kept in float32 and reorthogonalised in full, twice a step. The products were computed in float32.",
        "Batch normalisation used its stored statistics.",
        f"The trace is {TRACE.mean():.0f} ± {ERROR:.0f} (after Hutchinson",
        "each with its standard error over the vectors.",
        "The 3 largest and smallest eigenvalues, from 40 to -0.5, were those of the first vector; 2 of them have "
        "converged, and the residuals are at most 0.2.",
        "Computed with gradvis 0.1.0",
    ):
        assert fact in text
    assert "Wu and Simon" not in text
    assert "  " not in text


@pytest.mark.parametrize(
    ("about", "said", "unsaid"),
    [
        ({"tol": 1e-4}, "were refined by thick-restart Lanczos (Wu and Simon", "first vector"),
        ({"reorthogonalise": "none"}, "Three Lanczos vectors were kept in float32, without", "eigenvalues, from"),
        ({"top": 0}, "reorthogonalised in full", "eigenvalues, from"),
        ({"objective": {"loss": "mse", "parameters": "fc.*"}}, "with respect to the parameters fc.* (1000", "Batch"),
        ({"exact": True, "parameters": 3}, "from a random orthonormal basis of the whole space (seed 3)", "±"),
        ({"operator": "fisher"}, "The spectrum of the empirical Fisher matrix (the mean of the outer", "Hessian of"),
    ],
)
def test_the_paragraph_follows_what_was_asked(about, said, unsaid):
    text = methods(spectrum(**about))
    assert said in text
    assert unsaid not in text


def test_the_paragraph_counts_the_probes_that_are_there():
    nodes, weights = NODES.copy(), WEIGHTS.copy()
    nodes[1:], weights[1:] = np.nan, np.nan
    text = methods(spectrum(nodes, weights, VALUES))
    assert "from 1 random sign vector (seed 3), 4 steps long." in text
    assert "standard error" not in text
