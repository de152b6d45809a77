"""Reading files, the same for `prepare` and `predict`: pictures, DICOM and NIfTI, in folders and in zip archives alike."""
