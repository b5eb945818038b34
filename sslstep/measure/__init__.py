"""Measurements on embeddings: spectra and the times at which their dimensions are learned."""
