"""Every shape that crosses a boundary, declared once."""
