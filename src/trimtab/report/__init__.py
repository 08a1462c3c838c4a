"""Reports that people look at: a self-contained page, and film strips as pictures; knows no model and no metric."""

from trimtab.report.page import Measured, Report
from trimtab.report.pictures import film_strip

__all__ = ["Measured", "Report", "film_strip"]
