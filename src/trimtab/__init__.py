"""trimtab steers a large frozen video diffusion model by training only a small part beside it."""
