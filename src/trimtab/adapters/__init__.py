"""Ways of adapting a frozen prior, one file each; none knows another, nor which prior it was handed."""
