"""Values and contracts: the nouns of the library; knows no network, no file and no robot."""
