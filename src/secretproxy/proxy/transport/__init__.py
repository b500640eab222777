"""What connections on both sides are made of."""
