"""Images from disk: the catalog of datasets, the split files, and the arrays that training and scoring read."""

from anomaly_detection.data.dataset import DataSource, Domains, ImageSet

__all__ = ["DataSource", "Domains", "ImageSet"]
