import torch

from cxr_seam.models.cam import append_background, make_pcm_input, max_normalise, suppress_non_max


def test_max_normalise_by_hand():
    cam = torch.tensor([[[[2.0, -3.0], [1.0, 4.0]], [[-1.0, -2.0], [0.0, -5.0]]]])
    expected = torch.tensor([[[[0.5, 0.0], [0.25, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert torch.equal(max_normalise(cam), expected)


def test_background_is_one_minus_maximum():
    cam = torch.tensor([[[[0.2, 0.0]], [[0.7, 0.0]]]])
    assert torch.allclose(append_background(cam, findings=2)[0, 2], torch.tensor([[0.3, 1.0]]))


def test_suppress_non_max_keeps_ties_and_input():
    cam = torch.tensor([[[[0.2, 0.5]], [[0.7, 0.5]]]])
    before = cam.clone()
    assert torch.equal(suppress_non_max(cam), torch.tensor([[[[0.0, 0.5]], [[0.7, 0.5]]]]))
    assert torch.equal(cam, before)


def test_pcm_input_background_before_suppression():
    cam = torch.tensor([[[[1.0, 0.4]], [[0.5, 1.0]]]], requires_grad=True)
    prepared = make_pcm_input(cam, findings=2)
    expected = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]]])
    assert torch.equal(prepared, expected)
    assert not prepared.requires_grad
    half = torch.tensor([[[[1.0, 0.25]], [[1.0, 0.5]]]])
    assert torch.equal(make_pcm_input(half, findings=2)[0, 2], torch.tensor([[0.0, 0.5]]))


def test_pcm_input_keeps_the_models_background():
    cam = torch.zeros(1, 15, 1, 2)
    cam[0, 3] = torch.tensor([4.0, 1.0])
    cam[0, 14] = torch.tensor([-1.0, 8.0])
    prepared = make_pcm_input(cam, findings=14)
    assert prepared.shape == (1, 15, 1, 2)
    assert prepared[0, 14].tolist() == [[0.0, 1.0]]  # not 1 - max = 0, 0.75
    assert prepared[0, 3].tolist() == [[1.0, 0.25]]
