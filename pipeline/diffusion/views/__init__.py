"""Views of anagrams: orthogonal moves of pixels, one file for each kind, and the dict of their names."""
