"""The structures of `ic-stable-structures`, byte for byte, over any `Memory`."""
