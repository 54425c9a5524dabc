"""Codes that the codec is compared with, refitted to the same chunks."""
