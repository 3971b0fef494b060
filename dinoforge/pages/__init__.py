"""Self-contained HTML pages: templates, charts as inline SVG, pictures as data URIs.

A page needs no network and no other file, follows the light or dark setting of the reader, fits a
phone, and prints. Its callers choose the content.
"""
