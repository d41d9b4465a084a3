"""Measurements against peers in the same run: ``all.py`` lists them, ``RESULTS.md`` holds their figures."""
