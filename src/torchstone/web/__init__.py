"""The only room that speaks HTTP; it computes nothing. `serving/` answers for a bundle."""
