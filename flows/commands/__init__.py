"""The commands of ``dsrg``, a module for each group; heavy imports stand inside them."""
