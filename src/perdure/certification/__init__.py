"""Hash trees, certificates and the local BLS key."""
