"""A sweep's numbers, figures and runs in, one HTML file out that needs neither a network nor anything beside it."""

from w2s.analyze.report.page import LIMIT_BYTES, Picture, page

__all__ = ["LIMIT_BYTES", "Picture", "page"]
