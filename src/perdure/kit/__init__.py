"""What canister developers touch: pytest plugin, Python canisters, pocket-ic drop-in, upgrade checks."""
