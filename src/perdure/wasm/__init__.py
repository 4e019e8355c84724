"""The Wasm binary format: bytes to `Module` and back."""
