import math

import pytest
import torch

from cxr_seam.errors import InputError
from cxr_seam.models.pooling import LogSumExpPool, lse_pool


def test_hand_calculation():
    # 1/10 * log( (e^0 + e^10) / 2 ) for a map of two pixels, 0 and 1
    expected = math.log((1 + math.exp(10)) / 2) / 10
    assert lse_pool(torch.tensor([[[[0.0, 1.0]]]]), gamma=10).item() == pytest.approx(expected, rel=1e-6)


def test_lies_between_average_and_maximum_and_reaches_both():
    features = torch.randn(3, 5, 7, 6, generator=torch.Generator().manual_seed(0))
    average, maximum = features.mean(dim=(2, 3)), features.amax(dim=(2, 3))
    pooled = lse_pool(features, gamma=10)
    assert (average < pooled).all() and (pooled < maximum).all()
    assert torch.allclose(lse_pool(features.double(), gamma=1e-3), average, atol=2e-3)
    assert torch.allclose(lse_pool(features, gamma=1e4), maximum, atol=1e-3)


def test_constant_map_gives_the_constant():
    assert torch.allclose(lse_pool(torch.full((1, 2, 4, 4), 3.5), gamma=10), torch.full((1, 2), 3.5))


def test_no_overflow_where_the_plain_form_overflows():
    features = torch.tensor([[[[200.0, 0.0]]]])
    assert torch.exp(10 * features).isinf().any()
    assert lse_pool(features, gamma=10).item() == pytest.approx(200 - math.log(2) / 10, rel=1e-6)
    assert lse_pool(features.half(), gamma=10).dtype == torch.float32


def test_gamma_must_be_positive():
    with pytest.raises(InputError, match="gamma above 0"):
        LogSumExpPool(0)
