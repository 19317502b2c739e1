"""The kernel's reference results, from the plain torch path, with their comparison."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch import Tensor

from sampling.mixture.draw import argmax_indices, draw_indices
from sampling.mixture.mixture import kl_error, mix
from sampling.mixture.torch_draw import COLUMNS, _diagnostics_of
from tests.sampling.mixture.kernel.cases import Case

FINITE, MODE, ALPHA = (COLUMNS.index(name) for name in ("finite", "mode", "alpha"))
WHOLE_NUMBERS = [COLUMNS.index(name) for name in ("overlap_count", "support_size", "mode", *COLUMNS[-3:])]
TOLERANCE = 2e-7  # of 1 + the diagnostic's size: they are stored as float32


def plain(case: Case, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return tokens [B] int64 with their diagnostics [B, COLUMNS] float64."""
    theta, teacher, positions, keys = (
        part.to(device) for part in (case.theta, case.teacher, case.positions, case.keys)
    )
    with patch("sampling.mixture.mixture.overlap", lowest_first_overlap):
        mixed = mix(theta, teacher, positions == 0, case.num_ids, case.mixture, case.sampling)
    if case.sampling.temperature == 0:
        indices = argmax_indices(mixed.log_q)
    else:
        indices = draw_indices(mixed.log_q, case.sampling.seed, keys, positions)
    drawn = mixed.ids.gather(-1, indices[:, None])
    return drawn.squeeze(-1).cpu(), _diagnostics_of(mixed, drawn, indices[:, None]).cpu()


def lowest_first_overlap(p: Tensor, q: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return `distributions.overlap` with ties at the k-th probability broken by the lowest id; topk takes any."""
    k = min(top_k, p.shape[-1])
    inside = []
    for probs in (p, q):
        order = probs.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        inside.append(torch.zeros_like(probs, dtype=torch.bool).scatter_(-1, order, True))
    shared = inside[0] & inside[1] & (p > 0) & (q > 0)
    masses = [torch.where(shared, probs, 0.0).sum(dim=-1) for probs in (p, q)]
    return torch.minimum(*masses).clamp(0.0, 1.0), shared.sum(dim=-1)


def compare(case: Case, got: tuple[Tensor, Tensor], device: str = "cpu", tolerance: float = TOLERANCE) -> None:
    """Fail unless tokens are equal, diagnostics equal to float32 rounding, every mixed token's KL error below 1e-6."""
    (tokens, diagnostics), (expected_tokens, expected) = got, plain(case, device)
    finite = expected[:, FINITE] > 0
    assert torch.equal(diagnostics[:, FINITE], expected[:, FINITE])
    assert not tokens[~finite].any()
    torch.testing.assert_close(tokens[finite], expected_tokens[finite])
    diagnostics, expected = diagnostics[finite], expected[finite]
    torch.testing.assert_close(diagnostics[:, WHOLE_NUMBERS], expected[:, WHOLE_NUMBERS], rtol=0, atol=0)
    for column, name in enumerate(COLUMNS):
        close = torch.isclose(diagnostics[:, column], expected[:, column], rtol=tolerance, atol=tolerance)
        assert close.all(), f"{name}: {diagnostics[:, column].tolist()} instead of {expected[:, column].tolist()}"
    if case.mixture.alpha_method == "kl_symmetry":
        for row in torch.nonzero(finite).squeeze(-1)[diagnostics[:, MODE] == 0].tolist():
            assert true_kl_error(case, row, float(got[1][row, ALPHA]), device) < 1e-6


def true_kl_error(case: Case, row: int, alpha: float, device: str) -> float:
    """Return |KL(q*‖π_θ) − KL(q*‖π_t)| of one row at the kernel's α, in float64 throughout."""
    fixed = case.mixture.model_copy(update={"alpha_method": "fixed", "alpha": alpha})
    alone = slice(row, row + 1)
    theta, teacher = case.theta[alone].to(device), case.teacher[alone].to(device)
    first = (case.positions[alone] == 0).to(device)
    return float(kl_error(mix(theta, teacher, first, case.num_ids, fixed, case.sampling)))
