"""Capstones: claims of papers, and whether they reproduce."""
