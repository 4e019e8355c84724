"""What each `ic0` function means, as rules over one message's environment and effects."""
