"""Images from disk: the catalog of datasets, the split files, and the arrays that training and scoring read."""
