"""The network behind KID."""

import torch

from layerdiffusion.miniature import fidelity


def test_the_feature_network_comes_back_from_its_folder(tmp_path):
    network = fidelity.Features().eval()
    fidelity.save(network, tmp_path)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    torch.testing.assert_close(fidelity.load(tmp_path)(images), network(images), rtol=2e-2, atol=2e-2)
