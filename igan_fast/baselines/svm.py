"""Linear support vector machines that recognise attributes from the features of DCGAN's discriminator.

DCGAN + L2-SVM is a rival in the paper's Fig. 4 (Sec. 5.3). It follows Radford et al., "Unsupervised Representation
Learning with Deep Convolutional Generative Adversarial Networks" (ICLR 2016), Sec. 5.1. The activations of all
convolutional layers of the discriminator are max-pooled to a grid of 4×4, flattened and concatenated. A linear SVM with
the squared hinge loss and an L2 penalty is fitted on them, here one for each attribute. Neither their paper nor their
code (``svhn/svhn_semisup_analysis.py`` in github.com/Newmu/dcgan_code) standardises the features, so this does not
either. Of their code this is taken too: scikit-learn's ``LinearSVC`` with its defaults, and a C that is chosen among
seven by the errors on held-out photos.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from igan_fast.baselines.pooling import Features, feature_count, features_of
from igan_fast.baselines.weights_cache import load_or_train, training_key, weights_digest
from igan_fast.data.store import FaceStore, cache_folder, spread
from igan_fast.devices import resolve_device
from igan_fast.errors import InputError, printable
from igan_fast.paths import given_path
from igan_fast.progress import progress_bar

__all__ = ["AttributeSVM", "SVMConfig", "cached_svm", "decisions", "fit_svm"]

#: Part of the file name of every cached fit. Increase it when the fit changes.
CACHE_FORMAT = 1

#: Bytes for each value of the features during a fit: 8 of our array in float64, which is the only dtype that LinearSVC
#: takes without a copy, and 16 of the copy that its library LIBLINEAR makes (an index and a value).
BYTES_PER_VALUE = 24


@dataclass(frozen=True)
class SVMConfig:
    """Settings of the fit.

    Raises:
        InputError: a value is out of its range.
    """

    costs: tuple[float, ...] = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01)
    """The values of C to choose from, ascending: by default those of Radford et al.'s code. The one with the fewest
    errors over all attributes is taken, of equal ones the smallest. A single one is taken without a search."""
    search_photos: int = 1000
    """Upper limit of the photos that the machines are fitted on for the choice of C, and of the photos on which their
    errors are counted. The latter are from the last fifth of the training photos. Radford et al. fit on 1,000."""
    max_gigabytes: float = 4.0
    """Upper limit of the memory that the features take during a fit. If all training photos would take more, the
    machines are fitted on evenly spaced ones, as many as fit. It is a setting of the fit: it does not depend on the
    machine. A photo takes 24 bytes for each feature. With four layers of 64 to 512 channels (15,360 features), the
    6,800 training photos of a small CelebA take 2.5 GB, and all 162,770 would take 60 GB: the default takes 10,850."""
    max_iterations: int = 1000
    """Upper limit of the iterations of a fit. A warning names the attributes for which they were not enough."""
    seed: int = 0
    """Seed of the order in which a fit visits the photos."""

    def __post_init__(self) -> None:
        costs = self.costs
        if not costs or list(costs) != sorted(set(costs)) or not 0 < costs[0] <= costs[-1] < math.inf:
            raise InputError(f"costs: found {costs!r}, expected positive numbers, ascending")
        for name in ("search_photos", "max_iterations"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not 0 < self.max_gigabytes < math.inf:
            raise InputError(f"max_gigabytes: found {self.max_gigabytes}, expected a positive number")


class AttributeSVM(nn.Module):
    """A linear machine for each attribute.

    Args:
        features: number F of features.
        attributes: number A of attributes.

    Attributes:
        labels: the ``nn.Linear`` that holds weights (A, F) and biases (A,), float32.
        cost: the C of the fit, a scalar.
        photos: the number of photos that it was fitted on, a scalar.
    """

    cost: Tensor
    photos: Tensor

    def __init__(self, features: int, attributes: int) -> None:
        super().__init__()
        # By way of the meta device, so that no random numbers are drawn.
        self.labels = nn.Linear(features, attributes, device="meta").to_empty(device="cpu").requires_grad_(False)
        nn.init.zeros_(self.labels.weight)
        nn.init.zeros_(self.labels.bias)
        self.register_buffer("cost", torch.zeros((), dtype=torch.float64))
        self.register_buffer("photos", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features (N, F) float32 → decision values (N, A); the attribute is present if its value is above 0."""
        values: Tensor = self.labels(x)
        return values


def fit_svm(
    features: Features,
    store: FaceStore,
    config: SVMConfig | None = None,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 100,
    progress: bool = True,
    called: str = "the L2-SVM",
) -> AttributeSVM:
    """Fit a machine for each attribute on the ``"train"`` photos of ``store``, not flipped.

    An attribute that all or none of these photos have gets a machine that always gives this answer. The result depends
    on the features, the store and the config.

    Args:
        features: the network, in eval mode: what it computes from a photo must not depend on the others of the batch.
        device: the device of the images that ``features`` gets.
        batch_size: the number of images that it gets at a time.
        progress: show progress bars on stderr.
        called: what the progress bars and the messages call the machines.

    Returns:
        The machines, on the CPU.

    Raises:
        InputError: scikit-learn is not installed; the store has no training photos; a feature is not finite.
    """
    config = config or SVMConfig()
    linear_svc = _linear_svc(called)
    device = resolve_device(device)
    rows = store.splits["train"]
    count = feature_count(features, store, device)
    rows = spread(rows, max(1, int(config.max_gigabytes * 1e9 / (BYTES_PER_VALUE * count))))
    x = np.empty((len(rows), count))
    starts = range(0, len(rows), batch_size)
    for start in progress_bar(starts, shown=progress, desc=f"Features for {called}", unit="batch"):
        part = rows[start : start + batch_size]
        x[start : start + batch_size] = features_of(features, store.images[part], device).cpu().numpy()
    damaged = ~np.isfinite(x.sum(axis=1))
    if damaged.any():
        raise InputError(
            f"features: found NaN or infinite ones for {int(damaged.sum()):,} of {len(rows):,} training photos, "
            f"expected finite ones; {called} needs a network whose training has not diverged"
        )
    labels = store.labels[rows].astype(np.bool_)
    fitter = _Fitter(linear_svc, config)
    cost = _chosen_cost(fitter, x, labels, config, progress=progress, called=called)
    names = progress_bar(store.attributes, shown=progress, desc=f"Fitting {called}", unit="attribute")
    weights, biases, unfinished = fitter(x, labels, cost, names)
    if unfinished:
        listed = ", ".join(store.attributes[index] for index in unfinished)
        warnings.warn(
            printable(f"{called}: {config.max_iterations:,} iterations were not enough for {listed}"), stacklevel=2
        )
    svm = AttributeSVM(count, len(store.attributes))
    svm.labels.weight.copy_(torch.from_numpy(weights))
    svm.labels.bias.copy_(torch.from_numpy(biases))
    svm.cost.fill_(cost)
    svm.photos.fill_(len(rows))
    return svm.eval()


def cached_svm(
    features: Features,
    weights: Mapping[str, Tensor],
    store: FaceStore,
    config: SVMConfig | None = None,
    *,
    cache: str | Path | None = None,
    device: str | torch.device = "cpu",
    batch_size: int = 100,
    progress: bool = True,
    called: str = "the L2-SVM",
) -> AttributeSVM:
    """``fit_svm`` with a cache: one file for each network, set of photos, attributes, labels, size and config.

    The file holds a digest of the machines. If it is damaged, a warning says so, and they are fitted again. A fit that
    is in the cache needs no scikit-learn.

    Args:
        weights: the state dict of the network that ``features`` calls, by which the cache knows it.
        cache: the folder, ``igan_fast.data.store.cache_folder()`` by default.

    Returns:
        The machines, on ``device``.

    Raises:
        InputError: as ``fit_svm``; or the cache folder cannot be written, or there is a folder in the file's place.
    """
    config = config or SVMConfig()
    device = resolve_device(device)
    folder = cache_folder() if cache is None else given_path(cache, "cache")
    count = feature_count(features, store, device)
    settings = {
        "format": CACHE_FORMAT,
        "config": dataclasses.asdict(config),
        "features": count,
        "network": weights_digest(weights),
    }
    svm = load_or_train(
        AttributeSVM(count, len(store.attributes)),
        folder / f"svm-{store.size}-{training_key(store, settings)}.safetensors",
        lambda: fit_svm(
            features, store, config, device=device, batch_size=batch_size, progress=progress, called=called
        ),
        called=called,
        trained="fitted",
    )
    return svm.to(device).eval()


def decisions(
    svm: AttributeSVM, features: Features, images: NDArray[np.uint8] | Tensor, *, batch_size: int = 100
) -> NDArray[np.float32]:
    """Images (N, S, S, 3) uint8 → decision values (N, A). The attribute is present if its value is above 0.

    The values are no probabilities. ``features`` gets images on the device of ``svm``.
    """
    device = svm.labels.weight.device
    parts = [np.empty((0, svm.labels.out_features), np.float32)]
    for start in range(0, len(images), batch_size):
        x = features_of(features, images[start : start + batch_size], device)
        with torch.inference_mode():
            parts.append(svm(x).cpu().numpy())
    return np.concatenate(parts)


def _linear_svc(called: str) -> Any:
    """Import scikit-learn's class only here: everything else works without it."""
    try:
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise InputError(
            f"{called} needs scikit-learn, which cannot be imported ({error}); install it: "
            "pip install 'igan-fast[paper]', or pip install scikit-learn"
        ) from error
    return LinearSVC


class _Fitter:
    """Fits the machines of all attributes, one after the other: LIBLINEAR's random generator is global."""

    def __init__(self, linear_svc: Any, config: SVMConfig) -> None:
        self._linear_svc, self._config = linear_svc, config

    def __call__(
        self, x: NDArray[np.float64], labels: NDArray[np.bool_], cost: float, attributes: Iterable[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
        """Features (N, F) and labels (N, A) → weights (A, F), biases (A,), and the attributes not fitted to the end."""
        weights, biases = np.zeros((labels.shape[1], x.shape[1])), np.empty(labels.shape[1])
        unfinished = []
        for index, _ in enumerate(attributes):
            present = labels[:, index]
            if present.all() or not present.any():
                biases[index] = 1.0 if present[0] else -1.0
                continue
            machine = self._linear_svc(
                C=cost, dual="auto", max_iter=self._config.max_iterations, random_state=self._config.seed
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of iterations that were not enough: told for all attributes at once
                machine.fit(x, present)
            if machine.n_iter_ >= self._config.max_iterations:
                unfinished.append(index)
            weights[index], biases[index] = machine.coef_[0], machine.intercept_[0]
        return weights, biases, unfinished


def _chosen_cost(
    fitter: _Fitter,
    x: NDArray[np.float64],
    labels: NDArray[np.bool_],
    config: SVMConfig,
    *,
    progress: bool,
    called: str,
) -> float:
    """Return the C with the fewest errors on the last fifth of the photos, as neighbours may show the same person."""
    count = len(x)
    if len(config.costs) == 1 or count < 2:
        return config.costs[0]
    first = count - max(1, count // 5)
    fitted = spread(np.arange(first), config.search_photos)
    held = spread(np.arange(first, count), config.search_photos)
    x_fitted, x_held = x[fitted], x[held]
    errors = []
    for cost in progress_bar(config.costs, shown=progress, desc=f"Choosing C of {called}", unit="fit"):
        weights, biases, _ = fitter(x_fitted, labels[fitted], cost, range(labels.shape[1]))
        errors.append(int(np.sum((x_held @ weights.T + biases > 0) != labels[held])))
    return config.costs[int(np.argmin(errors))]
