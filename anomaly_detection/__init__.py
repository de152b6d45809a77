"""MADDR: one network that detects anomalies in medical images of several organs and modalities."""
