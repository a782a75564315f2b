"""The one computation: a dense oracle, and tiles for any length in O(T) memory."""
