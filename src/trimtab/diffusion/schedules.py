"""Noise schedules, from nearly clean to most noisy, and the step from one to another; knows no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trimtab.core.values import NoiseLevel, Video


@dataclass(frozen=True, eq=False)
class Schedule:
    """A table of noise levels; level i makes ``alphas[i] * clean + sigmas[i] * noise``.

    Attributes:
        name: what to call it in messages and records.
        alphas: float64 on the CPU, (level,), from nearly clean (index 0) to most noisy; zero at most in the last place.
        sigmas: float64 on the CPU, (level,).

    Raises:
        ValueError: a tensor of the wrong dtype, device or shape, a negative or infinite value, or noise that does not
            grow from level to level.
    """

    name: str
    alphas: Tensor
    sigmas: Tensor
    _angles_on: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for which, values in (("alphas", self.alphas), ("sigmas", self.sigmas)):
            if values.dtype != torch.float64 or values.device.type != "cpu" or values.ndim != 1 or len(values) < 2:
                raise ValueError(
                    f"{which} of schedule {self.name!r} must be two or more float64 values on the CPU, got "
                    f"{values.dtype} of shape {tuple(values.shape)} on {values.device}"
                )
            if not torch.isfinite(values).all() or (values < 0).any():
                raise ValueError(f"{which} of schedule {self.name!r} must be finite and not negative")
        if self.alphas.shape != self.sigmas.shape:
            raise ValueError(
                f"schedule {self.name!r} has {len(self.alphas)} alphas and {len(self.sigmas)} sigmas; give pairs"
            )
        angles = torch.atan2(self.sigmas, self.alphas)
        if self.sigmas[0] <= 0 or (angles.diff() <= 0).any():
            raise ValueError(
                f"schedule {self.name!r} must start with some noise and get noisier from level to level "
                "(sigma / alpha strictly increasing); flip it if it runs from noisy to clean"
            )

    @property
    def num_levels(self) -> int:
        return len(self.alphas)

    @cached_property
    def may_be_pure(self) -> bool:
        """Whether the last level is pure noise (alpha exactly zero)."""
        return self.alphas[-1].item() == 0.0

    @property
    def log_snr(self) -> Float[Tensor, " level"]:
        """log(alpha^2 / sigma^2), (level,) float64; minus infinity at pure noise."""
        return 2 * (self.alphas.log() - self.sigmas.log())

    def to_dict(self) -> dict[str, Any]:
        """The schedule as plain values of nine digits, the same on every machine, to record or to hash."""
        rounded = {which: [float(f"{x:.9g}") for x in getattr(self, which).tolist()] for which in ("alphas", "sigmas")}
        return {"name": self.name, **rounded}

    def level(self, index: Int[Tensor, "batch *time"]) -> NoiseLevel:
        """The noise level of integer indices 0 .. num_levels - 1, float32 on the device of the index.

        Raises ValueError for an index out of range (where the check is free, on the CPU) or not an integer.
        """
        if index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(f"a level index must be an integer, got {index.dtype}; round it first")
        if index.device.type == "cpu" and ((index < 0) | (index >= self.num_levels)).any():
            raise ValueError(f"level indices of schedule {self.name!r} are 0 .. {self.num_levels - 1}, got {index}")
        alpha, sigma = (values.float().to(index.device)[index] for values in (self.alphas, self.sigmas))
        return NoiseLevel(alpha, sigma, self.may_be_pure)

    def index_of(self, level: NoiseLevel) -> Float[Tensor, "batch *time"]:
        """The fractional index that is as noisy as `level`, of its shape, by interpolation in the angle.

        It is whole for a level of this schedule, and stays within 0 .. num_levels - 1 for any other.
        """
        index = interpolate(self._angles(level.alpha.device), angle_of(level))
        whole = index.round()
        return torch.where((index - whole).abs() < 1e-3, whole, index).float()

    def native(self, noisy: Video, level: NoiseLevel) -> tuple[Video, NoiseLevel, Float[Tensor, "batch *time"]]:
        """A noisy video of any schedule as a model trained with this one expects it.

        The video is multiplied by the ratio of the two hypot(alpha, sigma). Where they agree to 1e-6, as between two
        variance-preserving schedules, that is exactly one and the video and level keep their values.

        Returns:
            the rescaled video, its level (with the angle of `level`), and its fractional index.
        """
        index = self.index_of(level)
        lengths = torch.hypot(self.alphas, self.sigmas).float().to(index.device)
        low = index.long().clamp(max=self.num_levels - 2)
        length = torch.lerp(lengths[low], lengths[low + 1], index - low)
        ratio = length / torch.hypot(level.alpha, level.sigma)
        ratio = torch.where((ratio - 1).abs() < 1e-6, 1.0, ratio)
        native = NoiseLevel(level.alpha * ratio, level.sigma * ratio, level.may_be_pure)
        scale = ratio.reshape(ratio.shape + (1,) * (noisy.ndim - ratio.ndim))
        return (noisy * scale).to(noisy.dtype), native, index

    def _angles(self, device: torch.device) -> Tensor:
        """The angle of every level, kept on each device that asked, so that a sampling step copies nothing."""
        if device not in self._angles_on:
            self._angles_on[device] = torch.atan2(self.sigmas, self.alphas).to(device)
        return self._angles_on[device]


def angle_of(level: NoiseLevel) -> Tensor:
    """`NoiseLevel.angle` in float64: neighbouring levels near pure noise differ by less than float32 resolves."""
    return torch.atan2(level.sigma.double(), level.alpha.double())


def interpolate(table: Float[Tensor, " level"], values: Tensor) -> Tensor:
    """The fractional place of each value in a strictly increasing table, kept within the table."""
    high = torch.searchsorted(table, values.contiguous()).clamp(1, len(table) - 1)
    low = high - 1
    return low + ((values - table[low]) / (table[high] - table[low])).clamp(0, 1)


def linear(num_levels: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Betas evenly spaced from `first` to `last` (Ho et al., arXiv 2006.11239)."""
    return from_betas("linear", torch.linspace(first, last, num_levels, dtype=torch.float64))


def scaled_linear(num_levels: int = 1000, first: float = 0.00085, last: float = 0.012) -> Schedule:
    """Square roots of the betas evenly spaced (latent diffusion, arXiv 2112.10752)."""
    return from_betas("scaled_linear", torch.linspace(first**0.5, last**0.5, num_levels, dtype=torch.float64) ** 2)


def cosine(num_levels: int = 1000) -> Schedule:
    """Squared cosine with offset 0.008 and betas of at most 0.999 (Nichol and Dhariwal, arXiv 2102.09672)."""
    places = torch.linspace(0, 1, num_levels + 1, dtype=torch.float64)
    return from_signal("cosine", torch.cos((places + 0.008) / 1.008 * torch.pi / 2) ** 2)


def sigmoid(num_levels: int = 200) -> Schedule:
    """Sigmoid from -3 to 3 with betas of at most 0.999, the schedule of AVID's pixel models (arXiv 2212.11972)."""
    places = torch.linspace(0, 1, num_levels + 1, dtype=torch.float64)
    return from_signal("sigmoid", torch.sigmoid(torch.tensor(3.0, dtype=torch.float64)) - torch.sigmoid(6 * places - 3))


def flow(num_levels: int = 1000, shift: float = 1.0) -> Schedule:
    """The straight path alpha = 1 - t, sigma = t of rectified flow, which ends in pure noise.

    Args:
        num_levels: t is 1 / num_levels, ..., 1 before the shift.
        shift: above one spends more levels on noisy videos, t = shift * t / (1 + (shift - 1) * t) (arXiv 2403.03206).
    """
    times = torch.arange(1, num_levels + 1, dtype=torch.float64) / num_levels
    times = shift * times / (1 + (shift - 1) * times)
    return Schedule("flow" if shift == 1 else f"flow shifted by {shift:g}", 1 - times, times)


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """The same schedule, alphas shifted and scaled until the last is zero and the first as before (arXiv 2305.08891).

    Raises ValueError unless the schedule preserves variance (alpha^2 + sigma^2 = 1).
    """
    if not torch.allclose(torch.hypot(schedule.alphas, schedule.sigmas), torch.ones(1, dtype=torch.float64)):
        raise ValueError(
            f"only a variance-preserving schedule has a zero-terminal-SNR form; {schedule.name!r} is not one"
        )
    first, last = schedule.alphas[0], schedule.alphas[-1]
    alphas = (schedule.alphas - last) * (first / (first - last))
    return Schedule(f"{schedule.name}, zero terminal SNR", alphas, (1 - alphas**2).sqrt())


def from_signal(name: str, signal: Float[Tensor, " place"]) -> Schedule:
    """Variance-preserving, with alpha^2 proportional to `signal` (num_levels + 1 places) and betas of at most 0.999."""
    return from_betas(name, (1 - signal[1:] / signal[:-1]).clamp(max=0.999))


def from_betas(name: str, betas: Float[Tensor, " level"]) -> Schedule:
    """The variance-preserving schedule whose alpha^2 is the running product of 1 - beta.

    Raises ValueError for betas outside (0, 1); those of a zero-terminal-SNR schedule lose precision, take alphas there.
    """
    if (betas <= 0).any() or (betas >= 1).any():
        raise ValueError(f"betas must lie between 0 and 1, got {betas.min().item():.4g} .. {betas.max().item():.4g}")
    signal = (1 - betas).cumprod(0)
    return Schedule(name, signal.sqrt(), (1 - signal).sqrt())
