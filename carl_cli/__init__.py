"""Registration of 3D medical images with CARL networks."""

__version__ = "0.1.0"
