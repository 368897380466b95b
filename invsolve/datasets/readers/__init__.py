"""Files from scanners: looked at, checked before they are read, and made into problems."""

from invsolve.datasets.readers.image import ImageScan
from invsolve.datasets.readers.kspace import KSpaceScan
from invsolve.datasets.readers.opening import open_scan
from invsolve.datasets.readers.scan import Scan
from invsolve.datasets.readers.sinogram import SinogramScan

__all__ = ["ImageScan", "KSpaceScan", "Scan", "SinogramScan", "open_scan"]
