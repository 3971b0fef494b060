"""Protocols on videos, and on objects in images and frames."""
