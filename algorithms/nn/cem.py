"""Cross-entropy search for each row's best action, without gradients and without a host loop over
rows: arXiv:2111.11188, section 3.2, and its released code.

    (1) a_s = clip(mu + sigma e_s), e_s ~ N(0, I)
    (2) softmax   mu = sum_s w_s a_s, w = softmax_s Q(a_s);   sigma = sqrt(mean_s (a_s - mu)^2)
    (3) elites    mu, sigma = mean and standard deviation of the best a_s, which stay in the race
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FLOOR = 1e-6  # of sigma: draws of a converged search stay draws


@torch.no_grad()
def search(
    score: Callable[[Tensor], Tensor],
    noise: Tensor,
    mask: Tensor,
    mean: float = 0.0,
    std: float = 2.0,
    elites: int = 0,
) -> tuple[Tensor, Tensor]:
    """The best action of the last iteration and its score: [K, M, R, A] and [K, M, R].

    score maps [K, M, S, R, A] -> [K, M, S, R]; noise [I, K, M, S, R, A] is that of (1), one entry
    an iteration; mask [M, 1, A] is 0 where a dimension is padding; elites = 0: (2), else (3).
    """
    mask = mask.unsqueeze(1)  # [M, 1, 1, A]
    mu = torch.full_like(noise[0, :, :, :1], mean)  # [K, M, 1, R, A]
    sigma = torch.full_like(mu, std)
    kept: tuple[Tensor, Tensor] | None = None
    for e in noise:
        tried = (mu + sigma * e).clamp(-1, 1) * mask  # (1)
        scores = score(tried)
        if elites:  # (3)
            if kept is not None:
                tried, scores = torch.cat([tried, kept[0]], 2), torch.cat([scores, kept[1]], 2)
            scores, index = scores.topk(elites, dim=2)
            tried = tried.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, -1, tried.shape[-1]))
            kept = tried, scores
            mu, sigma = tried.mean(2, keepdim=True), tried.std(2, keepdim=True)
        else:  # (2)
            mu = (scores.softmax(2).unsqueeze(-1) * tried).sum(2, keepdim=True)
            sigma = (tried - mu).square().mean(2, keepdim=True).sqrt()
        sigma = sigma.clamp(min=FLOOR)
    value, index = scores.max(2, keepdim=True)
    best = tried.gather(2, index.unsqueeze(-1).expand(-1, -1, -1, -1, tried.shape[-1]))
    return best.squeeze(2), value.squeeze(2)
