"""Models on disk: names, blobs, manifests, what is imported into them and where it comes from."""
