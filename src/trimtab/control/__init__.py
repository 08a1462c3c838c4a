"""What acts by means of a video model; it knows tensors and networks, but no prior and no method."""
