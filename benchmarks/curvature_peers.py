"""Other tools for curvature, asked the same questions as gradvis by benchmarks/spectrum.py.

Each is asked as its own examples do it, with the whole data as one batch: only one of them can cut it.
Who cannot be imported is left out, and it is said.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from importlib import import_module, util
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

Data = tuple[Tensor, Tensor]


class PyHessian:
    """Yao et al., PyHessian: Neural Networks Through the Lens of the Hessian, 2020."""

    name, module = "PyHessian", "pyhessian"

    def __init__(self, model: nn.Module, data: Data) -> None:
        self.module_, self.model, self.data = import_module(self.module), model, data
        torch.eig = _eig

    def operator(self) -> Any:
        """It keeps the graph of the gradient; gradients that are there already would be added to its own."""
        self.model.zero_grad(set_to_none=True)
        return self.module_.hessian(self.model, nn.functional.cross_entropy, data=self.data, cuda=False)

    def products(self, vectors: Tensor) -> Iterator[tuple[str, Callable[[], Any], int]]:
        graph, product = self.operator(), self.module_.hessian_vector_product
        parts = vectors[0].split([each.numel() for each in graph.params])
        along = [part.view_as(each) for part, each in zip(parts, graph.params, strict=True)]
        yield "its graph is kept", lambda: product(graph.gradsH, graph.params, along), 1

    def share(self, steps: int, near: float, ends: tuple[float, float]) -> float:
        del ends
        nodes, weights = (np.asarray(each) for each in self.operator().density(iter=steps, n_v=1))
        return float(weights[np.abs(nodes) <= near].sum())

    def largest(self, k: int, tol: float) -> Any:
        """By power iteration to its own tolerance. It takes the largest in magnitude; negative ones are left out."""
        del tol
        return sorted((value for value in self.operator().eigenvalues(top_n=k)[0] if value > 0), reverse=True)


class Curvlinops:
    """Dangel et al., Position: Curvature Matrices Should Be Democratized via Linear Operators, 2025."""

    name, module = "curvlinops", "curvlinops"

    def __init__(self, model: nn.Module, data: Data) -> None:
        self.module_ = import_module(self.module)
        self.hessian = self.module_.HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), [data], check_deterministic=False
        )

    def products(self, vectors: Tensor) -> Iterator[tuple[str, Callable[[], Any], int]]:
        columns = vectors.T.contiguous()
        yield "one vector", lambda: self.hessian @ vectors[0], 1
        yield f"{len(vectors)} vectors together", lambda: self.hessian @ columns, len(vectors)

    def share(self, steps: int, near: float, ends: tuple[float, float]) -> float:
        """It is given the ends, which it would look for once, whatever the number of probes."""
        spectrum = self.module_.lanczos_approximate_spectrum
        return _inside(*spectrum(self.hessian, ncv=steps, num_points=10_000, boundaries=ends), near)

    def largest(self, k: int, tol: float) -> Any:
        return eigsh(self.hessian.to_scipy(), k, which="LA", tol=tol, return_eigenvectors=False)[::-1]


class Eigenthings:
    """Golmant et al., pytorch-hessian-eigenthings, 2018."""

    name, module = "hessian-eigenthings", "hessian_eigenthings"

    def __init__(self, model: nn.Module, data: Data) -> None:
        self.module_ = import_module(self.module)
        loss = self.module_.supervised_loss(nn.functional.cross_entropy)
        self.hessian = self.module_.HessianOperator(model, [data], loss)

    def products(self, vectors: Tensor) -> Iterator[tuple[str, Callable[[], Any], int]]:
        yield "one vector", lambda: self.hessian.matvec(vectors[0]), 1

    def share(self, steps: int, near: float, ends: tuple[float, float]) -> float:
        del ends
        found = self.module_.spectral_density(self.hessian, num_runs=1, lanczos_steps=steps)
        return _inside(found.grid, found.density, near)

    def largest(self, k: int, tol: float) -> Any:
        """As many steps as it takes by default, 2 k."""
        return self.module_.lanczos(self.hessian, k=k, tol=tol, which="LA", seed=0).eigenvalues.numpy()


Peer = PyHessian | Curvlinops | Eigenthings


def peers(folder: str | None, model: nn.Module, data: Data) -> list[Peer]:
    """Those that can be imported; a folder is looked at behind everything that is installed."""
    if folder:
        sys.path.append(folder)
    if not util.find_spec("torchvision"):  # asked for at import, and not used
        sys.modules["torchvision"] = types.ModuleType("torchvision")
    found: list[Peer] = []
    for kind in (PyHessian, Curvlinops, Eigenthings):
        try:
            found.append(kind(model, data))
        except ImportError as error:
            print(f"  {kind.name} is left out: {error}")
    return found


def _eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
    """What PyHessian 0.1 asks of a torch that no longer has it; its matrix is symmetric."""
    assert eigenvectors
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


def _inside(grid: Tensor, density: Tensor, near: float) -> float:
    """The integral of a density from -near to near."""
    here = grid.abs() <= near
    return float(torch.trapezoid(density[here], grid[here]))
