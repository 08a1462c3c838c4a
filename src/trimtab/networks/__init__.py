"""Plain networks over tensors; they know no model, no method and no data set."""
