"""What the scanner adds: coil sensitivity, saturation band, and Rician noise."""

from __future__ import annotations

import numpy as np

from cps4_monai.data.phantom.upsample import smooth_noise

FULL_SCALE = 800


def coil_sensitivity(rng: np.random.Generator, skin_mm: np.ndarray) -> np.ndarray:
    """Sensitivity of a spine coil under the back: falls with the distance from the skin, and varies along it.

    Args:
        rng: random generator.
        skin_mm: distance to the skin of the back, (H, W) in mm.

    Returns:
        (H, W) float32, about 1 at the spine.
    """
    reach = rng.uniform(110, 320)
    falling = np.exp(-np.clip(skin_mm - 70, -70, 200) / reach)
    wave = smooth_noise(rng, (4, 4), skin_mm.shape)
    return falling * np.exp(rng.uniform(0.03, 0.13) * wave)


def saturation_band(rng: np.random.Generator, front_mm: np.ndarray) -> np.ndarray:
    """Band before the spine that suppresses moving organs, in most scans; (H, W), 1 where it leaves the signal.

    Args:
        rng: random generator.
        front_mm: distance before the spine's mean position, (H, W) in mm.
    """
    edge, strength = rng.uniform(28, 60), rng.uniform(0.5, 0.95) * (rng.random() < 0.7)
    return 1 - strength * np.clip((front_mm - edge) / 12 + 0.5, 0, 1)


def rician(rng: np.random.Generator, signal: np.ndarray, sigma: float) -> np.ndarray:
    """Magnitude of the signal with normal noise of standard deviation ``sigma`` in both channels; float32."""
    real = rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = rng.standard_normal(signal.shape, dtype=np.float32)
    real *= sigma
    real += signal
    imaginary *= sigma
    return np.hypot(real, imaginary, out=real)


def digitise(rng: np.random.Generator, signal: np.ndarray) -> np.ndarray:
    """Scanner units: int16 from 0 on, gain different in each scan, and whites clipped in some."""
    gain = FULL_SCALE * rng.uniform(0.5, 1.6)
    ceiling = rng.uniform(0.95, 1.2) if rng.random() < 0.15 else np.inf
    return np.rint(np.minimum(signal, ceiling) * gain).astype(np.int16)
