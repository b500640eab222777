"""What a database says about itself: which of its objects lead to secret functions."""
