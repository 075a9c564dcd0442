"""How a network is put together: modules, their order, channels and sums."""
