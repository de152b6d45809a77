"""DPA and the MADDR losses. `load_original_checkpoint` opens what the DPA authors' code wrote."""

__all__ = ["load_original_checkpoint"]


def __getattr__(name: str):
    # Imported when asked for: baseline.py needs rec_losses.py of this package, and what is loaded here needs baseline.py.
    if name == "load_original_checkpoint":
        from anomaly_detection.MADDR_dpa.original import load_original_checkpoint

        return load_original_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
