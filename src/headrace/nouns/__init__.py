"""The shared vocabulary: frozen data and protocols, standard library only.

Every room may import these nouns; they import nothing of Headrace but each other.
"""
