"""What `T5Config` refuses."""

import pytest

from cotdistill_jax import network


def test_unknown_activation_lists_the_allowed_ones():
    with pytest.raises(ValueError, match=r"unknown mlp_activations \['geglu'\].*'gelu'"):
        network.T5Config(mlp_activations=("geglu",))


def test_unknown_remat_lists_the_allowed_ones():
    with pytest.raises(ValueError, match=r"unknown remat 'all'; allowed are \['none', 'dots'"):
        network.T5Config(remat="all")
