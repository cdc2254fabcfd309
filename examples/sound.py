"""Synthetic sounds, and their mel spectrograms for HiFi-GAN."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

RATE, WINDOW, HOP, MELS = 8000, 256, 64, 40


def notes(count: int, samples: int, seed: int) -> Tensor:
    """Sounds (count, 1, samples) in [−1, 1]: notes of random pitch with overtones, vibrato and a little noise."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    time = torch.arange(samples) / RATE
    pitch = 110 * 2 ** uniform(0, 2, 1)
    phase = 2 * torch.pi * pitch * time + uniform(0, 2, 1) * torch.sin(2 * torch.pi * uniform(4, 7, 1) * time)
    overtones = torch.arange(1, 7)[None, :, None]
    strength = uniform(0.2, 1, 6, 1) / overtones
    sound = (strength * torch.sin(overtones * phase[:, None])).sum(1) + uniform(-0.02, 0.02, samples)
    return (0.95 * sound / sound.abs().amax(1, keepdim=True))[:, None]


def log_mel(sound: Tensor) -> Tensor:
    """The mel spectrogram of sounds: (N, 1, T) → (N, MELS, T // HOP), the logarithm of the magnitude per mel band."""
    padded = torch.nn.functional.pad(sound, ((WINDOW - HOP) // 2,) * 2, mode="reflect").squeeze(1)
    window = torch.hann_window(WINDOW, dtype=sound.dtype, device=sound.device)
    spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    magnitude = (spectrum.real**2 + spectrum.imag**2 + 1e-9).sqrt()
    return (_filters().to(magnitude) @ magnitude).clamp(min=1e-5).log()


@functools.cache
def _filters() -> Tensor:
    """The mel filter bank (MELS, frequencies): triangles of equal area, evenly spaced on the mel scale."""
    top = 2595 * torch.tensor(1 + RATE / 2 / 700, dtype=torch.float64).log10()
    edges = 700 * (10 ** (torch.linspace(0, 1, MELS + 2, dtype=torch.float64) * top / 2595) - 1)
    frequencies = torch.linspace(0, RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)
